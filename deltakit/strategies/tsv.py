"""Task singular vectors (Gargiulo et al. 2025, arXiv:2412.00081).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> d1, d2 = [[4.0, 0.0], [0.0, 0.0]], [[0.0, 1.2], [0.0, 1.6]]
>>> get("tsv").merge(Stack(torch.tensor([d1, d2])))
tensor([[ 3.7947,  0.6325],
        [-1.2649,  1.8974]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._matrix import matrices, plain_mean, polar, rank, svd
from deltakit.strategies._settings import Count
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tsv(Strategy):
    """Keep each task's top singular vectors, make them orthogonal to the others', and sum.

    r: singular directions a task keeps; "auto" is min(rows, columns) / T, rounded down, at least
    one. The stacked left and right vectors are whitened by their polar factors. Parameters that are
    no matrices are averaged.
    """

    r: Count | Literal["auto"] = "auto"

    family = "matrix"
    unit = "tensor"
    formula = "polar([U_1 .. U_T]) diag(S_1 .. S_T) polar([V_1 .. V_T])^T"
    paper = "Gargiulo et al. 2025, arXiv:2412.00081"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "neither"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("tsv", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack, stack.weights)
        if found is None:
            return plain_mean(stack)
        least, experts = min(found.shape[1:]), len(found)
        r = max(1, least // experts) if self.r == "auto" else min(self.r, least)
        parts = [svd(matrix, r) for matrix in found]
        # Directions without strength are whatever LAPACK chose: they have no part in the frames.
        live = [rank(s, found.shape[1:]) for _, s, _ in parts]
        if not any(live):
            return stack.deltas[0] * 0
        each = list(zip(parts, live, strict=True))
        u = polar(torch.cat([u[:, :n] for (u, _, _), n in each], dim=1))  # (m, at most T r)
        vh = polar(torch.cat([vh[:n] for (_, _, vh), n in each]))  # (at most T r, n)
        s = torch.cat([s[:n] for (_, s, _), n in each])
        return ((u * s) @ vh).reshape(stack.deltas.shape[1:])
