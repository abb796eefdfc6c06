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
from typing import TYPE_CHECKING

from deltakit.strategies._aligned import Aligned
from deltakit.strategies._matrix import basis, svd

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CoreSpace(Aligned):
    """Write the deltas in joint left and right bases, merge the small cores as ties does.

    The bases span the columns and the rows of all deltas, so nothing is lost: d_i = U M_i V^T. Of
    LoRA deltas the cores are as small as their ranks together. density: the fraction of each core
    that is kept. Parameters that are no matrices are averaged.
    """

    formula = "U ties(M_1 .. M_T) V^T, M_i = U^T d_i V in bases of all deltas"
    paper = "Panariello et al. 2025, arXiv:2509.17786"

    def merged(self, deltas: Tensor, weights: Sequence[float]) -> Tensor:
        import torch

        beside, above = torch.cat(list(deltas), dim=1), torch.cat(list(deltas))
        u, s, _ = svd(beside)
        u = basis(u, s, beside.shape)  # (m, r)
        _, s, vh = svd(above)
        v = basis(vh.T, s, above.shape)  # (n, r')
        return u @ self.elected(u.T @ deltas @ v, weights) @ v.T  # from cores (T, r, r')
