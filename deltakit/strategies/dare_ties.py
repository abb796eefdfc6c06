"""DARE before TIES' election (Yu et al. 2024, arXiv:2311.03099).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("dare_ties", {"p": 0.5}).merge(Stack(torch.tensor([[1.0] * 8, [-3.0] * 8]), seed=2))
tensor([ 2.,  0.,  0., -6.,  2.,  0., -6.,  2.])
"""

from __future__ import annotations

from dataclasses import dataclass

from deltakit import ops
from deltakit.lazy import LazyDeltas
from deltakit.strategies._random import Drops, Rescale, drop
from deltakit.strategies._settings import DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Elects


@dataclass(frozen=True)
class DareTies(Drops, Elects):
    """Drop at random and rescale as dare, then elect a sign and average as ties.

    p: the drop rate. rescale: "inverse", "l1" or "none", as in dare.
    """

    p: DropRate = 0.9
    rescale: Rescale = "inverse"

    formula = "ties at density 1 of m_i d_i / (1 - p), m_i ~ Bernoulli(1 - p)"
    paper = "Yu et al. 2024, arXiv:2311.03099"

    def thinned(self, stack: Stack) -> LazyDeltas:
        return drop(stack, ops.kept_density(self.p), self.rescale)
