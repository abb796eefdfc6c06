"""DARE (Yu et al. 2024, arXiv:2311.03099): drop at random, rescale, add.

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("dare", {"p": 0.5}).merge(Stack(torch.ones(1, 8), seed=2))
tensor([2., 0., 0., 0., 2., 0., 2., 2.])
"""

from __future__ import annotations

from dataclasses import dataclass

from deltakit import ops
from deltakit.lazy import LazyDeltas
from deltakit.strategies._random import Drops, Rescale, drop
from deltakit.strategies._settings import DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Sums


@dataclass(frozen=True)
class Dare(Drops, Sums):
    """Drop each entry with probability p, rescale the rest, add: sum w_i m_i d_i / (1 - p).

    rescale: "inverse" divides by 1 - p (the paper), "l1" restores each delta's L1 norm tensor by
    tensor (what mergekit calls rescale), "none" leaves the kept values as they are.
    """

    p: DropRate = 0.9
    rescale: Rescale = "inverse"

    formula = "sum w_i m_i d_i / (1 - p), m_i ~ Bernoulli(1 - p)"
    paper = "Yu et al. 2024, arXiv:2311.03099"

    def thinned(self, stack: Stack) -> LazyDeltas:
        return drop(stack, ops.kept_density(self.p), self.rescale)
