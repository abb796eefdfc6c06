"""Elastic weight consolidation at merge time (Kirkpatrick et al. 2017, arXiv:1612.00796).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> scores = (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0]))
>>> get("ewc", {"l": 0.5}).merge(Stack(torch.tensor([[0.0, 0.0], [1.0, 3.0]]), scores=scores))
tensor([0.5000, 2.6667])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._scores import counted, element_scores
from deltakit.strategies._settings import NotNegative
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Running, Streaming
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Ewc(Streaming):
    """Take task after task, each pulled back to what came before by what mattered there.

    The minimum of the new task's loss, quadratic about its own optimum, plus l times the penalty
    of leaving the old one; both curvatures are the importance maps. The curvature carried on is
    F_t + l F_prev. Where neither task has any, the two are averaged 1 to l.
    """

    l: NotNegative = 1.0  # noqa: E741  the paper's lambda

    family = "importance"
    formula = "(F_t d_t + l F_prev d_prev) / (F_t + l F_prev), task after task"
    paper = "Kirkpatrick et al. 2017, arXiv:1612.00796"
    ordered = True
    weighted = False
    needs_importance = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return {"merged": info, "curvature": info}

    def add(self, before: Running, stack: Stack) -> Running:
        merged, curvature = before.get("merged"), before.get("curvature")
        for delta, now in zip(stack.deltas, counted(element_scores(stack)), strict=True):
            if merged is None or curvature is None:
                merged, curvature = delta.clone(), now
                continue
            kept = counted(curvature * self.l)
            curvature = now + kept
            nothing = curvature == 0.0
            old, new = kept.masked_fill(nothing, self.l), now.masked_fill(nothing, 1.0)
            merged = (delta * new + merged * old) / (new + old)
        assert merged is not None
        assert curvature is not None
        return {"merged": merged, "curvature": curvature}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return running["merged"]
