"""CABS: conflict-aware, balanced sparsity (Yang et al. 2025, arXiv:2503.01874).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> a, b = [5.0, -1.0, 2.0, 4.0, 3.0, -6.0, 1.0, 0.5], [7.0, 3.0, -2.0, 1.0, 2.0, -1.0, 4.0, -5.0]
>>> get("cabs").merge(Stack(torch.tensor([a, b])))
tensor([ 5.,  3., -2.,  4.,  3., -6.,  4., -5.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._settings import Count
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy
from deltakit.strategies.masks.nm import Nm

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cabs(Strategy):
    """Keep the n largest of every m that no earlier task keeps, and add.

    n of every m consecutive entries of a row are a task's. Put the task that matters most first.
    """

    n: Count = 2
    m: Count = 4

    formula = "sum w_i m_i d_i, m_i the top n of every m that no earlier m_j has"
    paper = "Yang et al. 2025, arXiv:2503.01874"
    unit = "row"
    ordered = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check(self) -> None:
        self.mask()

    def mask(self) -> Nm:
        """Return the mask that goes before the sum."""
        return Nm(self.n, self.m, "excluded")

    def merge(self, stack: Stack) -> Tensor:
        return ops.weighted_sum(self.mask().apply(stack), stack.weights)
