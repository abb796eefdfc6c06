"""WUDI merging in closed form (Cheng et al. 2025, arXiv:2503.08099).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> d1, d2 = [[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]
>>> get("wudi").merge(Stack(torch.tensor([d1, d2])))
tensor([[2., 0.],
        [0., 3.]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._matrix import matrices, plain_mean
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Wudi(Strategy):
    """Interfere least with each task on the inputs its own delta answers to.

    The closed form of sum_i |(d - d_i) d_i^T|^2 / |d_i|^2 for linear layers, computed in float64:
    regmean with d_i^T d_i in the place of the inputs. Needs a matrix of columns by columns.
    Parameters that are no matrices are averaged.
    """

    family = "matrix"
    unit = "tensor"
    formula = "(sum w_i d_i C_i) (sum w_i C_i)^+, C_i = d_i^T d_i / |d_i|^2"
    paper = "Cheng et al. 2025, arXiv:2503.08099"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("wudi", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        n = found.shape[2]
        answers = torch.zeros(found.shape[1:], dtype=torch.float64)
        inputs = torch.zeros(n, n, dtype=torch.float64)
        for matrix, weight in zip(found, stack.weights, strict=True):
            wide = matrix.double()
            norm = float(wide.square().sum())
            if norm > 0.0:
                own = wide.T @ wide * (weight / norm)
                inputs += own
                answers += wide @ own
        merged = answers @ torch.linalg.pinv(inputs, rtol=1e-9, hermitian=True)
        return merged.to(found.dtype).reshape(stack.deltas.shape[1:])
