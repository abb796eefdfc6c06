"""Model Breadcrumbs before TIES' election (arXiv:2312.06795, arXiv:2306.01708).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[0.1, -0.2, 0.3, -0.4, 9.0], [0.5, 0.0, 0.1, 0.2, -8.0]])
>>> get("breadcrumbs_ties", {"density": 0.4, "gamma": 0.2}).merge(Stack(deltas))
tensor([ 0.5000,  0.0000,  0.3000, -0.4000,  0.0000])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._settings import Density, DropRate
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import check_positive_weights
from deltakit.strategies._streaming import Elects
from deltakit.strategies.masks.outliers import Outliers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BreadcrumbsTies(Elects):
    """Drop both tails as breadcrumbs, then elect a sign and average as ties.

    gamma: the fraction of the largest magnitudes dropped, rounded down, so that a tensor of fewer
    than 1/gamma entries keeps its largest. density: the fraction kept below those. Tensor by
    tensor.
    """

    density: Density = 0.9
    gamma: DropRate = 0.01

    family = "election"
    formula = "ties of m_i d_i, m_i without the top gamma and the bottom"
    paper = "Davari & Belilovsky 2023, arXiv:2312.06795"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def check(self) -> None:
        self.mask()

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("breadcrumbs_ties", weights)

    def mask(self) -> Outliers:
        """Return the mask that goes before the election."""
        return Outliers(self.density, self.gamma)

    def thinned(self, stack: Stack) -> Tensor:
        return self.mask().apply(stack)
