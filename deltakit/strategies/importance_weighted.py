"""Averaging by importance, of elements, rows or tensors (generalises arXiv:2111.09832).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> scores = (torch.tensor(1.0), torch.tensor(3.0))
>>> get("importance_weighted").merge(Stack(torch.tensor([[1.0, 2.0], [5.0, 6.0]]), scores=scores))
tensor([4., 5.])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._scores import counted, element_scores
from deltakit.strategies._settings import Positive
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Running, Streaming, added
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImportanceWeighted(Streaming):
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
    streams_with = "by=share"

    @property
    def streams(self) -> bool:
        return self.by == "share"

    needs_importance = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return dict.fromkeys(("sum", "mass", "plain"), info)

    def add(self, before: Running, stack: Stack) -> Running:
        scores = counted(element_scores(stack))
        ones = [1.0] * len(scores)
        return {
            "sum": added(before.get("sum"), stack.deltas * scores, ones),
            "mass": added(before.get("mass"), scores, ones),
            "plain": added(before.get("plain"), stack.lazy, ones),
        }

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        nothing = running["mass"] == 0.0
        mass = running["mass"].masked_fill(nothing, float(len(weights)))
        return ops.divided(running["plain"].where(nothing, running["sum"]), mass)

    def merge(self, stack: Stack) -> Tensor:
        if self.by == "share":
            return super().merge(stack)
        scores = element_scores(stack)
        # In float64, where every temperature is above 0.
        raised = ((scores - scores.amax(dim=0)).double() / self.temp).exp_()
        scores = raised.to(scores.dtype)
        return ops.shared_mean(stack.deltas, [1.0] * len(scores), scores)
