"""Model Breadcrumbs before TIES' election (arXiv:2312.06795, arXiv:2306.01708).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[0.1, -0.2, 0.3, -0.4, 9.0], [0.5, 0.0, 0.1, 0.2, -8.0]])
>>> get("breadcrumbs_ties", {"density": 0.4, "gamma": 0.2}).merge(Stack(deltas))
tensor([ 0.5000,  0.0000,  0.3000, -0.4000,  0.0000])
"""

from __future__ import annotations

from dataclasses import dataclass

from deltakit.strategies._masked import WithoutTails
from deltakit.strategies._streaming import Elects


@dataclass(frozen=True)
class BreadcrumbsTies(WithoutTails, Elects):
    """Drop both tails as breadcrumbs, then elect a sign and average as ties.

    density, gamma: as in breadcrumbs.
    """

    formula = "ties of m_i d_i, m_i without the top gamma and the bottom"
