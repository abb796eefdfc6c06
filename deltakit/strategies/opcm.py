"""OPCM: orthogonal projection, task after task (Tang et al. 2025, arXiv:2501.09522).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])
>>> get("opcm").merge(Stack(deltas))
tensor([[2.7022, 1.8015],
        [2.7022, 0.9007]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._matrix import matrices, plain_mean, rank, svd
from deltakit.strategies._settings import Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Opcm(Strategy):
    """Add each new delta without what lies along the merged one; keep the tasks' mean norm.

    In the singular basis of what is merged so far, a new delta loses its diagonal and its leading
    block: the directions before the one at which the singular values hold more than the fraction a
    of their sum. The sum then gets the mean of the tasks' norms. All matrix by matrix, where the
    published code takes norms over the model. Parameters that are no matrices are averaged.
    """

    a: Share = 0.5

    family = "matrix"
    unit = "tensor"
    formula = "(merged + P(d_t)) scaled to mean |d_i|, P off the leading subspace"
    paper = "Tang et al. 2025, arXiv:2501.09522"
    ordered = True
    weighted = False

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        merged = found[0]
        for matrix in found[1:]:
            merged = merged + self.projected(matrix, merged)
        norms = [float(matrix.norm(dtype=torch.float64)) for matrix in found]
        length = float(merged.norm(dtype=torch.float64))
        factor = sum(norms) / len(norms) / length if length > 0.0 else 0.0
        return (merged * factor).reshape(stack.deltas.shape[1:])

    def projected(self, matrix: Tensor, merged: Tensor) -> Tensor:
        """Return a delta without its part along what is merged already."""
        u, s, vh = svd(merged)
        r = rank(s, merged.shape)
        if not r:
            return matrix
        u, s, vh = u[:, :r], s[:r], vh[:r]
        split = int((s.cumsum(0) <= self.a * s.sum()).sum())
        along = u.T @ matrix @ vh.T  # (r, r)
        removed = along.diagonal().diag()
        removed[:split, :split] = along[:split, :split]
        return matrix - u @ removed @ vh
