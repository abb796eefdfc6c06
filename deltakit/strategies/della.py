"""DELLA (Deep et al. 2024, arXiv:2406.11617).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("della").merge(Stack(torch.tensor([[1.0] * 8, [-3.0] * 8]))).shape
torch.Size([8])
"""

from __future__ import annotations

from dataclasses import dataclass

from deltakit.strategies._masked import ByRank
from deltakit.strategies._streaming import Sums


@dataclass(frozen=True)
class Della(ByRank, Sums):
    """Drop at random, the likelier the lower an entry ranks in its row; rescale; add.

    density: the mean probability; it runs evenly from density - eps for the smallest magnitude of a
    row to density + eps for the largest. rescale: "inverse" divides what is kept by its
    probability; "none".
    """

    formula = "sum w_i m_i d_i / q, m_i ~ Bernoulli(q), q by rank in the row"
