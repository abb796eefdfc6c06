"""MagMax (Marczak et al. 2024, arXiv:2407.06322).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("magmax").merge(Stack(torch.tensor([[4.0, -1.0, 2.0, 3.0], [2.0, 3.0, -1.0, 1.0]])))
tensor([4., 3., 2., 3.])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Running, Streaming

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Magmax(Streaming):
    """Keep, entry by entry, the weighted delta of the largest magnitude.

    Of equal magnitudes the later task's stays, which is all that their order decides.
    """

    family = "election"
    formula = "w_i d_i, i = argmax |w_i d_i|"
    paper = "Marczak et al. 2024, arXiv:2407.06322"
    ordered = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def add(self, before: Running, stack: Stack) -> Running:
        largest = before.get("sum")
        for delta, weight in zip(stack.deltas, stack.weights, strict=True):
            later = delta * weight
            if largest is not None:
                later = later.where(later.abs() >= largest.abs(), largest)
            largest = later
        assert largest is not None
        return {"sum": largest}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return running["sum"]
