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

from deltakit.strategies._aligned import Aligned
from deltakit.strategies._matrix import rank, svd

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Knots(Aligned):
    """Align the deltas in one left basis, and merge their right factors as ties does.

    U diag(s) [V_1 .. V_T] is the SVD of the deltas side by side, without directions of no strength:
    as many as LoRA deltas have ranks together. density: the fraction of each V_i that is kept.
    on: ties goes on the "vectors" V_i, as the paper writes, or on the "coordinates" diag(s) V_i, as
    the authors' runs do, in which weak directions weigh little. Parameters that are no matrices are
    averaged.
    """

    on: Literal["vectors", "coordinates"] = "vectors"

    formula = "U diag(s) ties(V_1 .. V_T), U diag(s) [V_1 .. V_T] = [d_1 .. d_T]"
    paper = "Stoica et al. 2024, arXiv:2410.19735"

    def merged(self, deltas: Tensor, weights: Sequence[float]) -> Tensor:
        import torch

        side_by_side = torch.cat(list(deltas), dim=1)  # (m, T n)
        u, s, vh = svd(side_by_side)
        r = rank(s, side_by_side.shape)
        if not r:
            return deltas[0] * 0
        parts = torch.stack(vh[:r].chunk(len(deltas), dim=1))  # (T, r, n)
        # Where a delta has an empty column its vectors are 0: what the SVD leaves there would vote.
        parts *= deltas.any(dim=1, keepdim=True)
        if self.on == "coordinates":
            return u[:, :r] @ self.elected(parts * s[:r, None], weights)
        return (u[:, :r] * s[:r]) @ self.elected(parts, weights)
