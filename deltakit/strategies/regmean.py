"""RegMean (Jin et al. 2023, arXiv:2212.09849).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> grams = (torch.diag(torch.tensor([1.0, 3.0])), torch.eye(2))
>>> deltas = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 1.0], [2.0, 0.0]]])
>>> get("regmean").merge(Stack(deltas, scores=grams))
tensor([[2.0000, 0.2500],
        [1.0000, 0.7500]])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._settings import Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import check_positive_weights
from deltakit.strategies._streaming import Running, Streaming, added_to_mean, mean_of
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regmean(Streaming):
    """Match each linear layer's outputs on every task's inputs, by least squares.

    G_i is the Gram matrix of the layer's inputs on task i (`deltakit importance TASK --kind gram`),
    its off-diagonal times a. Inputs that no task ever has are averaged over. Computed in float64.
    Parameters without a Gram matrix are averaged.
    """

    a: Share = 0.9

    family = "importance"
    unit = "tensor"
    formula = "(sum w_i d_i G_i) (sum w_i G_i)^-1"
    paper = "Jin et al. 2023, arXiv:2212.09849"
    needs_importance = True
    statistic = "gram"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("regmean", weights)

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        if not _is_matched(info.shape, scores):
            return {"sum": info}
        inputs = TensorInfo("F64", (info.shape[1], info.shape[1]))
        return {"sum": info, "answers": TensorInfo("F64", info.shape), "inputs": inputs}

    def add(self, before: Running, stack: Stack) -> Running:
        import torch

        total = added_to_mean(before.get("sum"), stack.lazy, stack.weights)
        shape = stack.shape or ()
        if not _is_matched(shape, stack.scores):
            return {"sum": total}
        n = shape[1]
        inputs = before.get("inputs", torch.zeros(n, n, dtype=torch.float64)).reshape(n, n)
        answers = before.get("answers", torch.zeros(shape, dtype=torch.float64)).reshape(shape)
        found = stack.deltas.reshape(-1, *shape)
        for matrix, weight, scores in zip(found, stack.weights, stack.scores, strict=True):
            gram = scores.double() * weight
            gram = gram * self.a + gram.diagonal().diag() * (1.0 - self.a)
            inputs = inputs + gram
            answers = answers + matrix.double() @ gram
        return {"sum": total, "answers": answers.reshape(total.shape), "inputs": inputs}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        import torch

        mean = mean_of(running["sum"], weights)
        if "inputs" not in running:
            return mean
        inputs, answers = running["inputs"].clone(), running["answers"]
        # Where no task has inputs all answers are right: a little of every task's, the mean.
        little = 1e-9 * float(inputs.diagonal().mean())
        if little <= 0.0 or not bool(answers.isfinite().all()):
            return mean
        inputs.diagonal().add_(little)
        wanted = (answers + mean.double() * little).reshape(-1, len(inputs))
        merged = torch.linalg.solve(inputs, wanted, left=False)
        return merged.to(mean.dtype).reshape(mean.shape)


def _is_matched(shape: Sequence[int], scores: Sequence[Tensor]) -> bool:
    """Tell whether a parameter is the matrix of a linear layer whose inputs were captured."""
    return len(shape) == 2 and math.prod(shape) > 0 and bool(scores) and scores[0].dim() == 2
