"""DELLA (Deep et al. 2024, arXiv:2406.11617).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("della").merge(Stack(torch.tensor([[1.0] * 8, [-3.0] * 8]))).shape
torch.Size([8])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.strategies._masking import Inverse
from deltakit.strategies._settings import Density, DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Sums
from deltakit.strategies.masks.rank import Rank

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Della(Sums):
    """Drop at random, the likelier the lower an entry ranks in its row; rescale; add.

    density: the mean probability; it runs evenly from density - eps for the smallest magnitude of a
    row to density + eps for the largest. rescale: "inverse" divides what is kept by its
    probability; "none".
    """

    density: Density = 0.5
    eps: DropRate = 0.15
    rescale: Inverse = "inverse"

    formula = "sum w_i m_i d_i / q, m_i ~ Bernoulli(q), q by rank in the row"
    paper = "Deep et al. 2024, arXiv:2406.11617"
    unit = "row"

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    def check(self) -> None:
        self.mask()

    def mask(self) -> Rank:
        """Return the mask that goes before the sum."""
        return Rank(self.density, self.eps, self.rescale)

    def thinned(self, stack: Stack) -> Tensor:
        return self.mask().apply(stack)
