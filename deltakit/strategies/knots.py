"""KnOTS: TIES in the joint right basis (Stoica et al. 2024, arXiv:2410.19735).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
>>> get("knots", {"density": 0.5}).merge(Stack(deltas))
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
class Knots(Strategy):
    """Align the deltas in one left basis, and merge their right factors as ties does.

    U diag(s) [V_1 .. V_T] is the SVD of the deltas side by side, without directions of no strength:
    as many as LoRA deltas have ranks together. density: the fraction of each V_i that is kept.
    Parameters that are no matrices are averaged.
    """

    density: Density = 0.2

    family = "matrix"
    unit = "tensor"
    formula = "U diag(s) ties(V_1 .. V_T), U diag(s) [V_1 .. V_T] = [d_1 .. d_T]"
    paper = "Stoica et al. 2024, arXiv:2410.19735"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("knots", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        side_by_side = torch.cat(list(found), dim=1)  # (m, T n)
        u, s, vh = svd(side_by_side)
        r = rank(s, side_by_side.shape)
        if not r:
            return stack.deltas[0] * 0
        parts = Stack(torch.stack(vh[:r].chunk(len(found), dim=1)))  # (T, r, n)
        merged = Combination.elected(parts.trimmed(self.density), stack.weights).tensor
        return ((u[:, :r] * s[:r]) @ merged).reshape(stack.deltas.shape[1:])
