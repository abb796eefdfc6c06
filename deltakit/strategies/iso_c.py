"""Isotropic merging in the common subspace (Marczak et al. 2025, arXiv:2502.04959).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> d1, d2 = [[4.0, 0.0], [0.0, 0.0]], [[0.0, 1.2], [0.0, 1.6]]
>>> get("iso_c").merge(Stack(torch.tensor([d1, d2])))
tensor([[ 2.8000,  0.6000],
        [-0.6000,  2.8000]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._matrix import matrices, plain_mean, rank, svd
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IsoC(Strategy):
    """Make all singular values of the summed delta equal to their mean.

    Directions in which the sum is zero stay zero, where the published code lets LAPACK choose some.
    Parameters that are no matrices are averaged.
    """

    family = "matrix"
    unit = "tensor"
    formula = "mean(s) U V^T, U diag(s) V^T = sum w_i d_i"
    paper = "Marczak et al. 2025, arXiv:2502.04959"
    faithful = False

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "neither"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("iso_c", weights)

    def merge(self, stack: Stack) -> Tensor:
        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        u, s, vh = svd(ops.weighted_sum(found, stack.weights))
        r = rank(s, found.shape[1:])
        return (u[:, :r] @ vh[:r] * s.mean()).reshape(stack.deltas.shape[1:])
