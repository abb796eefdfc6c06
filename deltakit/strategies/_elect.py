"""TIES' election and mean, of deltas that something else has trimmed or dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit import ops

if TYPE_CHECKING:
    from torch import Tensor

    from deltakit.lazy import LazyDeltas


def elected_mean(deltas: Tensor | LazyDeltas, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of the entries that have the sign of their weighted sum.

    >>> import torch
    >>> elected_mean(torch.tensor([[4.0, -1.0], [-2.0, 5.0]]), [1.0, 1.0])
    tensor([4., 5.])

    (k, *shape) -> (*shape); 0 where the sum is.
    """
    return ops.disjoint_mean(deltas, weights, ops.elect_sign(deltas, weights))
