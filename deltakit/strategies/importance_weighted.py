"""Averaging by importance, of elements, rows or tensors (generalises arXiv:2111.09832).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> scores = (torch.tensor(1.0), torch.tensor(3.0))
>>> get("importance_weighted").merge(Stack(torch.tensor([[1.0, 2.0], [5.0, 6.0]]), scores=scores))
tensor([4., 5.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._scores import element_scores
from deltakit.strategies._settings import Positive
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImportanceWeighted(Strategy):
    """Average by what each entry, row or tensor matters to each task.

    by: "share" weighs a task by s_i / sum s (evenly where all are 0), "softmax" by
    softmax(s_i / temp) over the tasks. temp: the smaller, the more the most important task takes.
    """

    by: Literal["share", "softmax"] = "share"
    temp: Positive = 1.0

    family = "importance"
    formula = "sum a_i d_i, a_i = s_i / sum s or softmax(s_i / temp)"
    paper = "generalises Matena & Raffel 2022, arXiv:2111.09832"
    weighted = False
    needs_importance = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def merge(self, stack: Stack) -> Tensor:
        scores = element_scores(stack)
        ones = [1.0] * len(scores)
        if self.by == "softmax":
            scores = ((scores - scores.amax(dim=0)) / self.temp).exp_()
        else:
            nothing = ops.weighted_sum(scores, ones) == 0.0
            scores = scores.masked_fill(nothing, 1.0)
        return ops.shared_mean(stack.deltas, ones, scores)
