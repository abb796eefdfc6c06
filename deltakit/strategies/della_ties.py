"""DELLA before TIES' election (Deep et al. 2024, arXiv:2406.11617).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("della_ties").merge(Stack(torch.tensor([[1.0] * 8, [-3.0] * 8]))).shape
torch.Size([8])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._masking import Inverse
from deltakit.strategies._settings import Density, DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import check_positive_weights
from deltakit.strategies._streaming import Elects
from deltakit.strategies.masks.rank import Rank

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DellaTies(Elects):
    """Drop by rank and rescale as della, then elect a sign and average as ties.

    density: the mean probability; it runs evenly from density - eps for the smallest magnitude of a
    row to density + eps for the largest. rescale: "inverse" divides what is kept by its
    probability; "none".
    """

    density: Density = 0.5
    eps: DropRate = 0.15
    rescale: Inverse = "inverse"

    family = "election"
    formula = "ties of m_i d_i / q, m_i ~ Bernoulli(q), q by rank"
    paper = "Deep et al. 2024, arXiv:2406.11617"
    unit = "row"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    def check(self) -> None:
        self.mask()

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("della_ties", weights)

    def mask(self) -> Rank:
        """Return the mask that goes before the election."""
        return Rank(self.density, self.eps, self.rescale)

    def thinned(self, stack: Stack) -> Tensor:
        return self.mask().apply(stack)
