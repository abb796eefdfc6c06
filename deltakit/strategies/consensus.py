"""Consensus merging with TALL masks (Wang et al. 2024, arXiv:2405.07813).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[4.0, 1.0, -2.0, 0.5], [1.0, -1.0, -2.0, 3.0]])
>>> get("consensus").merge(Stack(deltas))
tensor([ 0.,  0., -4.,  0.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._settings import Count, NotNegative
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Consensus(Strategy):
    """Sum the deltas where at least k tasks need the entry; leave the base's elsewhere.

    k: how many tasks; all of them where fewer have a weight. tl: a task needs an entry whose |d_i|
    is above tl times |sum - d_i|, what the others add. k = 1 leaves out only what no task needs.
    """

    k: Count = 2
    tl: NotNegative = 0.4

    family = "election"
    formula = "sum w_i d_i where k tasks have |w_i d_i| > tl |sum - w_i d_i|"
    paper = "Wang et al. 2024, arXiv:2405.07813"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "sum"

    def merge(self, stack: Stack) -> Tensor:
        merged = ops.weighted_sum(stack.deltas, stack.weights)
        needed = merged * 0
        for delta, weight in zip(stack.deltas, stack.weights, strict=True):
            own = delta * weight
            needed += own.abs() > (merged - own).abs_().mul_(self.tl)
        tasks = sum(weight != 0.0 for weight in stack.weights)
        return merged.where(needed >= min(self.k, tasks), merged.new_zeros(()))
