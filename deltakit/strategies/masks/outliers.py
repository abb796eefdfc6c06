"""Drop both tails of the magnitudes (Model Breadcrumbs, arXiv:2312.06795).

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> deltas = torch.tensor([[0.1, -0.2, 0.3, -0.4, 9.0]])
>>> masks.get("outliers", {"density": 0.4, "gamma": 0.2}).apply(Stack(deltas))
tensor([[ 0.0000,  0.0000,  0.3000, -0.4000,  0.0000]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.errors import BadValue
from deltakit.lazy import LazyDeltas
from deltakit.strategies._facts import whole_of
from deltakit.strategies._masking import Masking
from deltakit.strategies._settings import Density, DropRate
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Outliers(Masking):
    """Drop the largest magnitudes and the smallest, tensor by tensor.

    gamma: the fraction at the top that is dropped, rounded down: a tensor of fewer than 1/gamma
    entries has no outlier. density: the fraction kept below those; the rest, the smallest, goes.
    """

    density: Density = 0.9
    gamma: DropRate = 0.01

    streams = True
    formula = "m_i = the next density of |d_i| below the top gamma"
    paper = "Davari & Belilovsky 2023, arXiv:2312.06795"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def check(self) -> None:
        if self.density + self.gamma > 1.0 + 1e-9:
            raise BadValue(
                "density and gamma are more than 1 together",
                got=f"density {self.density:g}, gamma {self.gamma:g}",
                remedy="keep and drop at most everything",
            )

    def counts(self, numel: int) -> tuple[int, int]:
        """Return how many entries are above those kept, and how many with them."""
        top = int(self.gamma * numel + 1e-9)
        return top, min(numel, top + ops.kept_count(numel, self.density))

    def apply(self, stack: Stack) -> Tensor:
        return self.lazily(stack).tensor

    def lazily(self, stack: Stack) -> LazyDeltas:
        whole = whole_of(stack)
        if not whole.numel:
            return stack.lazy
        top, last = (
            [whole.cut_at(expert, count) for expert in range(len(stack.lazy))]
            for count in self.counts(whole.numel)
        )
        return stack.lazy.trimmed(last, stack.start).topped(top, stack.start)
