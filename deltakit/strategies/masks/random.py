"""Keep entries at random, independently (SoTU, arXiv:2411.02813; DARE, arXiv:2311.03099).

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> masked = masks.get("random", {"density": 0.5}).apply(Stack(torch.ones(2, 1000)))
>>> 450 < int(masked[0].sum()) < 550, 200 < int((masked[0] * masked[1]).sum()) < 300
(True, True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._masking import Masking
from deltakit.strategies._random import Rescale, drop
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Random(Masking):
    """Keep each entry with probability `density`, whatever the other tasks keep.

    density: "auto" is 1/T for T tasks, at which most kept entries have one owner. rescale: "none";
    "inverse" divides by the density; "l1" restores each delta's L1 norm, tensor by tensor.
    """

    density: Density | Literal["auto"] = "auto"
    rescale: Rescale = "none"

    streams_with = "density a number"
    formula = "m_i ~ Bernoulli(density)"
    paper = "arXiv:2411.02813"
    draws_entries = True

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor" if self.rescale == "l1" else "nothing"

    @property
    def streams(self) -> bool:  # type: ignore[override]
        return self.density != "auto"

    def apply(self, stack: Stack) -> Tensor:
        density = 1 / len(stack.deltas) if self.density == "auto" else self.density
        return drop(stack, density, self.rescale).tensor
