"""Keep the largest magnitudes (TIES' trim, arXiv:2306.01708).

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> masks.get("magnitude", {"density": 0.5}).apply(Stack(torch.tensor([[1.0, -4.0]])))
tensor([[ 0., -4.]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.lazy import LazyDeltas
from deltakit.strategies._masking import Masking
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Scope, Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Magnitude(Masking):
    """Keep the largest magnitudes of each delta.

    density: the fraction kept, at least one entry, of every tensor on its own or of the whole
    model (scope).
    """

    density: Density = 0.2
    scope: Scope = "tensor"

    streams = True
    formula = "m_i = the top density of |d_i|"
    paper = "arXiv:2306.01708"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "model" if self.scope == "global" else "tensor"

    @property
    def alone(self) -> bool:
        return self.scope == "tensor"

    def apply(self, stack: Stack) -> Tensor:
        trimmed = self.lazily(stack).tensor
        return trimmed.clone() if trimmed is stack.deltas else trimmed

    def lazily(self, stack: Stack) -> LazyDeltas:
        return stack.lazy_trimmed(self.density, self.scope)
