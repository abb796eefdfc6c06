"""How several deltas are added up to one, in numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Formula(NamedTuple):
    """A sum of w_i d_i, perhaps a chain, perhaps over the winners of a vote; then over and times.

    >>> Formula([0.5, 0.5])._replace(factors=(2.0,)).factors
    (2.0,)

    With `carries` c_i the sum so far is multiplied by c_i before w_i d_i is added (c_0 has nothing
    to multiply). With `votes` v_i the sum is over those entries whose sign is that of sum v_i d_i,
    or of sum v_i sign(d_i) where `by_count`; it is divided by the sum of the winners' `divisors`
    where there are any. What results is divided by `divisor` and multiplied by each of `factors`.
    """

    weights: Sequence[float]
    votes: Sequence[float] | None = None
    divisors: Sequence[float] | None = None
    carries: Sequence[float] | None = None
    by_count: bool = False
    divisor: float = 1.0
    factors: tuple[float, ...] = ()
