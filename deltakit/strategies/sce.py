"""SCE: select, calculate, erase (FuseChat, Wan et al. 2024, arXiv:2408.07990).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[4.0, 0.0, 2.0, 1.0], [-2.0, 0.0, 4.0, 1.0]])
>>> get("sce").merge(Stack(deltas))
tensor([4., 0., 3., 1.])
>>> get("sce", {"topk": 0.5}).merge(Stack(deltas))
tensor([4., 0., 0., 0.])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._facts import derived_cuts, derived_totals, whole_of
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy
from deltakit.strategies._whole import Whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sce(Strategy):
    """Select the entries that vary most, weigh experts by their energy, erase minority signs.

    topk: fraction kept of the entries on which the experts differ at all, by variance over them,
    tensor by tensor; at 1 everything stays. The weights are mean(d_i^2) over what is kept; the
    elected sign is that of the plain sum.
    """

    topk: Density = 1.0

    family = "election"
    formula = "weighted mean of those with the sign of sum d_i, w_i = mean(d_i^2)"
    paper = "Wan et al. 2024, arXiv:2408.07990"
    weighted = False

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def look(self, whole: Whole, expert: int) -> None:
        if expert == 0 and whole.experts > 1:  # all are read together
            self.energies(whole, whole.experts)

    def merge(self, stack: Stack) -> Tensor:
        whole, experts = whole_of(stack), len(stack.lazy)
        deltas = self.selected(whole, experts, stack.deltas, stack.start)
        energies = self.energies(whole, experts)
        total = math.fsum(energies)
        if total == 0.0:
            return deltas[0] * 0
        # An energy that underflows beside the others still is above what divides by it.
        weights = [max(energy / total, 1e-30) for energy in energies]
        elected = ops.elect_sign(deltas, [1.0] * len(deltas))
        return ops.disjoint_mean(deltas, weights, elected)

    def energies(self, whole: Whole, experts: int) -> list[float]:
        """Return the sum of squares of what is selected of each expert's tensor."""
        return derived_totals(
            whole,
            experts,
            ("sce", self.topk),
            lambda deltas, at: self.selected(whole, experts, deltas, at).double().square_(),
        )

    def selected(self, whole: Whole, experts: int, deltas: Tensor, start: int) -> Tensor:
        """Return the deltas with 0 where their variance is not among the largest."""
        if self.topk == 1.0:
            return deltas
        (vary,) = derived_totals(
            whole, experts, "varying", lambda block, _: _variance(block).ne(0)[None]
        )[:1]
        if not vary:
            return deltas * 0
        count = ops.kept_count(int(vary), self.topk)
        (cut,) = derived_cuts(whole, experts, "variance", lambda block: [_variance(block)], [count])
        kept = cut.keeps(_variance(deltas).reshape(-1), start).reshape(deltas.shape[1:])
        return deltas * kept


def _variance(deltas: Tensor) -> Tensor:
    """Return the variance over the experts, in float64: (k, *shape) -> (*shape)."""
    wide = deltas.double()
    wide = wide - wide[0]  # so that it is 0, and no rounding of 1 / k, where all agree
    share = [1.0 / len(wide)] * len(wide)
    return ops.weighted_sum((wide - ops.weighted_sum(wide, share)).square_(), share)
