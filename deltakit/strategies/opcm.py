"""OPCM: orthogonal projection, task after task (Tang et al. 2025, arXiv:2501.09522).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]])
>>> get("opcm").merge(Stack(deltas))
tensor([[2.7022, 1.8015],
        [2.7022, 0.9007]])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._matrix import rank, svd
from deltakit.strategies._settings import Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Running, Streaming, added_to_mean, mean_of
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Opcm(Streaming):
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

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return (
            {"sum": info, "norms": TensorInfo("F64", ())}
            if _is_matrix(info.shape)
            else {"sum": info}
        )

    def add(self, before: Running, stack: Stack) -> Running:
        import torch

        shape, merged = stack.shape or (), before.get("sum")
        if not _is_matrix(shape):
            return {"sum": added_to_mean(merged, stack.lazy, stack.weights)}
        norms = before.get("norms", torch.zeros((), dtype=torch.float64))
        for delta in stack.deltas:
            matrix = delta.reshape(shape)
            norms = norms + matrix.norm(dtype=torch.float64)
            if merged is not None:
                so_far = merged.reshape(shape)
                matrix = so_far + self.projected(matrix, so_far)
            merged = matrix.reshape(delta.shape)
        assert merged is not None
        return {"sum": merged, "norms": norms}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        import torch

        if "norms" not in running:
            return mean_of(running["sum"], weights)
        length = float(running["sum"].norm(dtype=torch.float64))
        factor = float(running["norms"]) / len(weights) / length if length > 0.0 else 0.0
        return running["sum"] * factor

    def projected(self, matrix: Tensor, merged: Tensor) -> Tensor:
        """Return a delta without its part along what is merged already."""
        if not bool(merged.isfinite().all() and matrix.isfinite().all()):
            return matrix  # nothing can be factored: the sum passes it on to where it is refused
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


def _is_matrix(shape: Sequence[int]) -> bool:
    return len(shape) == 2 and math.prod(shape) > 0
