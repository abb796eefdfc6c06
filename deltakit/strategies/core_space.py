"""Core-space merging: TIES between joint bases (Panariello et al. 2025, arXiv:2509.17786).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
>>> get("core_space", {"density": 0.25}).merge(Stack(deltas))
tensor([[2., 0.],
        [0., 3.]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.combination import Combination
from deltakit.strategies._matrix import matrices, plain_mean, rank, svd
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CoreSpace(Strategy):
    """Write the deltas in joint left and right bases, merge the small cores as ties does.

    The bases span the columns and the rows of all deltas, so nothing is lost: d_i = U M_i V^T. Of
    LoRA deltas the cores are as small as their ranks together. density: the fraction of each core
    that is kept. Parameters that are no matrices are averaged.
    """

    density: Density = 0.2

    family = "matrix"
    unit = "tensor"
    formula = "U ties(M_1 .. M_T) V^T, M_i = U^T d_i V in bases of all deltas"
    paper = "Panariello et al. 2025, arXiv:2509.17786"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("core_space", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        beside, above = torch.cat(list(found), dim=1), torch.cat(list(found))
        u, s, _ = svd(beside)
        r = rank(s, beside.shape)
        _, s, vh = svd(above)
        if not r:
            return stack.deltas[0] * 0
        u, vh = u[:, :r], vh[: rank(s, above.shape)]
        cores = Stack(u.T @ found @ vh.T)  # (T, r, r')
        merged = Combination.elected(cores.trimmed(self.density), stack.weights).tensor
        return (u @ merged @ vh).reshape(stack.deltas.shape[1:])
