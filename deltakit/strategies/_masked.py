"""What della and breadcrumbs share with their variants before TIES' election: mask and settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deltakit.lazy import LazyDeltas
from deltakit.strategies._masking import Inverse
from deltakit.strategies._settings import Density, DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy
from deltakit.strategies._whole import Whole
from deltakit.strategies.masks.outliers import Outliers
from deltakit.strategies.masks.rank import Rank

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ByRank(Strategy):
    """Deltas thinned by the mask `rank`, with its settings."""

    density: Density = 0.5
    eps: DropRate = 0.15
    rescale: Inverse = "inverse"

    paper = "Deep et al. 2024, arXiv:2406.11617"
    unit = "row"
    draws_entries = True

    @property
    def rescales_draws(self) -> bool:
        return self.mask().rescales_draws

    def takes_stored(self, facts: Collection[Any]) -> bool:
        return False

    def check(self) -> None:
        self.mask()

    def mask(self) -> Rank:
        """Return the mask that goes before the merge."""
        return Rank(self.density, self.eps, self.rescale)

    def thinned(self, stack: Stack) -> Tensor:
        return self.mask().apply(stack)


@dataclass(frozen=True)
class WithoutTails(Strategy):
    """Deltas thinned by the mask `outliers`, with its settings."""

    density: Density = 0.9
    gamma: DropRate = 0.01

    paper = "Davari & Belilovsky 2023, arXiv:2312.06795"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return self.mask().looks

    def look(self, whole: Whole, expert: int) -> None:
        if whole.leads(expert):
            for count in self.mask().counts(whole.numel):
                whole.cut_at(expert, count)

    def check(self) -> None:
        self.mask()

    def mask(self) -> Outliers:
        """Return the mask that goes before the merge."""
        return Outliers(self.density, self.gamma)

    def thinned(self, stack: Stack) -> LazyDeltas:
        return self.mask().lazily(stack)
