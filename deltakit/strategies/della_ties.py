"""DELLA before TIES' election (Deep et al. 2024, arXiv:2406.11617).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("della_ties").merge(Stack(torch.tensor([[1.0] * 8, [-3.0] * 8]))).shape
torch.Size([8])
"""

from __future__ import annotations

from dataclasses import dataclass

from deltakit.strategies._masked import ByRank
from deltakit.strategies._streaming import Elects


@dataclass(frozen=True)
class DellaTies(ByRank, Elects):
    """Drop by rank and rescale as della, then elect a sign and average as ties.

    density, eps, rescale: as in della.
    """

    formula = "ties of m_i d_i / q, m_i ~ Bernoulli(q), q by rank"
