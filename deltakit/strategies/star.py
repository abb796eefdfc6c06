"""STAR: spectral truncation and rescale (Lee et al. 2025, arXiv:2502.10339).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("star").merge(Stack(torch.diag(torch.tensor([6.0, 3.0, 1.0]))[None])).diagonal()
tensor([10.,  0.,  0.])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._matrix import matrices, plain_mean, svd
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Star(Strategy):
    """Cut each delta's small singular values, restore its nuclear norm, and average.

    eta: the fraction of the nuclear norm that the kept singular values hold, as few as do.
    Parameters that are no matrices are averaged.
    """

    eta: Density = 0.4

    family = "matrix"
    unit = "tensor"
    formula = "sum w_i U diag(s_1..s_r) V^T |s|_1 / |s_1..s_r|_1 / sum w_i"
    paper = "Lee et al. 2025, arXiv:2502.10339"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("star", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        kept = torch.stack([self.truncated(matrix) for matrix in found])
        merged = plain_mean(dataclasses.replace(stack, deltas=kept))
        return merged.reshape(stack.deltas.shape[1:])

    def truncated(self, matrix: Tensor) -> Tensor:
        """Return a matrix of fewer singular values and the same nuclear norm."""
        u, s, vh = svd(matrix)
        held = s.double().cumsum(0)
        if held[-1] == 0.0:
            return matrix * 0
        # A sum in float64 of values exact to 1e-6 reaches all of itself only up to that.
        r = 1 + int((held < self.eta * held[-1] * (1.0 - 1e-7)).sum())
        return (u[:, :r] * (s[:r] * float(held[-1] / held[r - 1]))) @ vh[:r]
