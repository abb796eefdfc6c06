"""SoTU (arXiv:2411.02813): random masks, so that merged tasks rarely share an entry.

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("sotu").merge(Stack(torch.tensor([[1.0] * 8, [3.0] * 8]), seed=2))  # half of each
tensor([1., 0., 0., 3., 1., 0., 4., 1.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.lazy import LazyDeltas
from deltakit.strategies._random import Drops, Rescale, drop
from deltakit.strategies._settings import DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Sums

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Sotu(Drops, Sums):
    """Mask each delta at random, independently, and add: t0 + scale * sum w_i m_i d_i.

    p is the drop rate, m_i ~ Bernoulli(1 - p); "auto" is 1 - 1/T for T tasks. The paper has no
    1/(1 - p) rescale, so rescale is "none"; "inverse" and "l1" are those of dare. The masks make
    supports nearly disjoint; they do not make directions orthogonal that were not.
    """

    p: DropRate | Literal["auto"] = "auto"
    rescale: Rescale = "none"

    formula = "sum w_i m_i d_i, m_i ~ Bernoulli(1 - p), p = 1 - 1/T"
    paper = "arXiv:2411.02813"
    streams_with = "p a number"

    @property
    def streams(self) -> bool:
        return self.p != "auto"

    def thinned(self, stack: Stack) -> LazyDeltas:
        density = 1 / len(stack.tasks) if self.p == "auto" else ops.kept_density(self.p)
        return drop(stack, density, self.rescale)
