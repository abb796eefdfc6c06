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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._matrix import matrices, plain_mean
from deltakit.strategies._settings import Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regmean(Strategy):
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

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack)
        if found is None or not stack.scores or stack.scores[0].dim() != 2:
            return plain_mean(stack)
        n = found.shape[2]
        inputs = torch.zeros(n, n, dtype=torch.float64)
        answers = torch.zeros(found.shape[1:], dtype=torch.float64)
        for matrix, weight, scores in zip(found, stack.weights, stack.scores, strict=True):
            gram = scores.double() * weight
            gram = gram * self.a + gram.diagonal().diag() * (1.0 - self.a)
            inputs += gram
            answers += matrix.double() @ gram
        # Where no task has inputs all answers are right: a little of every task's, the mean.
        little = 1e-9 * float(inputs.diagonal().mean())
        if little <= 0.0:
            return plain_mean(stack)
        mean = plain_mean(stack).reshape(found.shape[1:]).double()
        inputs.diagonal().add_(little)
        merged = torch.linalg.solve(inputs, answers + mean * little, left=False)
        return merged.to(found.dtype).reshape(stack.deltas.shape[1:])
