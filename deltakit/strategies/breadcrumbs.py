"""Model Breadcrumbs (Davari & Belilovsky 2023, arXiv:2312.06795).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[0.1, -0.2, 0.3, -0.4, 9.0], [0.5, 0.0, 0.1, 0.2, -8.0]])
>>> get("breadcrumbs", {"density": 0.4, "gamma": 0.2}).merge(Stack(deltas))
tensor([ 0.5000,  0.0000,  0.3000, -0.2000,  0.0000])
"""

from __future__ import annotations

from dataclasses import dataclass

from deltakit.strategies._masked import WithoutTails
from deltakit.strategies._streaming import Sums


@dataclass(frozen=True)
class Breadcrumbs(WithoutTails, Sums):
    """Drop the largest and the smallest entries of each delta, and add.

    gamma: the fraction of the largest magnitudes dropped, rounded down, so that a tensor of fewer
    than 1/gamma entries keeps its largest. density: the fraction kept below those. Tensor by
    tensor.
    """

    formula = "sum w_i m_i d_i, m_i without the top gamma and the bottom"
