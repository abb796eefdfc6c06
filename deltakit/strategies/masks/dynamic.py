"""A density for each layer, or for each number of tasks.

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> dynamic = masks.get("dynamic", {"density": 0.2, "last": 0.6})
>>> dynamic.density_of(Stack(torch.ones(2, 4), depth=0.5), 0)
0.4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._budget import water_fill
from deltakit.strategies._facts import squares
from deltakit.strategies._masking import SMALLEST, Inverse, Masking
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Dynamic(Masking):
    """Keep entries at random, at a density that depends on where or when.

    by: "depth" runs evenly from `density` in the first layer to `last` in the last; "norm" gives
    each tensor a density in proportion to the RMS of its delta, capped at 1, such that `density`
    of the model stays; "arrival" is 1/T, to which an older task's mask is thinned by (t-1)/t with
    every task that comes (masks nest). rescale: "inverse" divides by the density; "none".
    """

    by: Literal["depth", "norm", "arrival"] = "depth"
    density: Density = 0.1
    last: Density = 0.5
    rescale: Inverse = "none"

    streams_with = "by=depth or by=norm"
    formula = "m_i ~ Bernoulli(q), q by depth, by the delta's RMS, or 1/T"
    paper = "arXiv:2411.02813"
    draws = True
    draws_entries = True

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "model" if self.by == "norm" else "nothing"

    def density_of(self, stack: Stack, expert: int) -> float:
        """Return the fraction of this parameter that one expert keeps."""
        if self.by == "arrival":
            return 1.0 / len(stack.deltas)
        if self.by == "depth":
            return self.density + (self.last - self.density) * stack.depth
        return self._by_norm(stack, expert)

    def _by_norm(self, stack: Stack, expert: int) -> float:
        import numpy as np

        model = stack.model
        assert model is not None
        counts = np.array(model.parts, dtype=np.float64)
        rms = np.sqrt(np.array(squares(model, expert)) / np.maximum(counts, 1.0))
        filled = water_fill(rms, self.density * float(counts.sum()), counts)
        part = int(np.searchsorted(np.cumsum(counts), stack.model_start, side="right"))
        return float(filled[min(part, len(filled) - 1)])

    @property
    def alone(self) -> bool:
        return self.by == "depth"

    @property
    def streams(self) -> bool:  # type: ignore[override]
        return self.by != "arrival"

    def apply(self, stack: Stack) -> Tensor:
        import torch

        masked = torch.zeros_like(stack.deltas)
        count = stack.deltas[0].numel()
        for expert, delta in enumerate(stack.deltas):
            density = self.density_of(stack, expert)
            if density > 0.0:
                kept = stack.draw(expert, density, stack.start, count).reshape(delta.shape)
                torch.mul(delta, kept, out=masked[expert])
                if self.rescale == "inverse":
                    masked[expert] /= max(density, SMALLEST)
        return masked
