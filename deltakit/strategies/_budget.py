"""Sharing out a budget of kept entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def water_fill(weights: np.ndarray, budget: float, counts: np.ndarray | None = None) -> np.ndarray:
    """Return q_j = min(1, c w_j) with the c that makes sum n_j q_j the budget.

    >>> import numpy as np
    >>> water_fill(np.array([1.0, 1.0, 2.0, 12.0]), 2.0)
    array([0.25, 0.25, 0.5 , 1.  ])

    weights (n,) not negative, `counts` n_j are 1 unless told. Where fewer entries than the budget
    weigh anything, those are all kept.
    """
    import numpy as np

    weights = weights.astype(np.float64)
    number = np.ones_like(weights) if counts is None else counts.astype(np.float64)
    order = np.argsort(-weights, kind="stable")
    w, n = weights[order], number[order]
    if not len(w) or w[0] <= 0.0:
        return weights * 0.0
    capped = np.concatenate([[0.0], np.cumsum(n)[:-1]])  # entries capped if those before j are
    mass = np.cumsum((n * w)[::-1])[::-1]  # of j and after
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        c = (budget - capped) / mass
        fits = np.flatnonzero((mass > 0.0) & (c * w <= 1.0) & (c >= 0.0))
    if not len(fits):
        return (weights > 0.0).astype(np.float64)
    filled: np.ndarray = np.minimum(1.0, c[fits[0]] * weights)
    return filled
