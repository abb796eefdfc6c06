"""Keep by importance, within a budget (optimal sampling).

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> deltas = torch.tensor([[1.0, 1.0, 2.0, 12.0]])
>>> masks.get("importance", {"density": 0.5}).densities(Stack(deltas))
tensor([[0.2500, 0.2500, 0.5000, 1.0000]], dtype=torch.float64)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._budget import water_fill
from deltakit.strategies._masking import Inverse, Masking, thin
from deltakit.strategies._scores import element_scores
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Importance(Masking):
    """Keep each entry with probability min(1, c sqrt(F) |d|), c set by the budget.

    That sampling loses the least sum F (d - kept)^2 that its budget allows. density: the budget,
    as a fraction of each tensor's entries. by: "delta" takes F = 1, "map" takes F from each task's
    importance map. rescale: "inverse" divides what is kept by its probability, which keeps the mean
    of every entry; "none".
    """

    density: Density = 0.1
    by: Literal["delta", "map"] = "delta"
    rescale: Inverse = "inverse"

    streams = True
    formula = "m_i ~ Bernoulli(min(1, c sqrt(F_i) |d_i|)), sum q = density n"
    paper = "Wangni et al. 2018, arXiv:1710.09854"
    draws = True
    draws_entries = True
    unit = "tensor"

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    @property
    def needs_importance(self) -> bool:  # type: ignore[override]
        return self.by == "map"

    def densities(self, stack: Stack) -> Tensor:
        """Return each entry's probability to stay: float64 (k, *shape)."""
        import torch

        weights = stack.deltas.double().abs()
        if self.by == "map":
            weights *= element_scores(stack).double().sqrt()
        budget = self.density * stack.deltas[0].numel()
        filled = [water_fill(row.reshape(-1).numpy(), budget) for row in weights]
        return torch.stack([torch.from_numpy(row) for row in filled]).reshape(weights.shape)

    def apply(self, stack: Stack) -> Tensor:
        return thin(stack, self.densities(stack), self.rescale)
