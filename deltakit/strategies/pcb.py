"""PCB-Merging: parameter competition balancing (Du et al. 2024, arXiv:2410.02396).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[4.0, -1.0, 3.0, 0.5], [2.0, 1.0, 1.0, -4.0]])
>>> get("pcb", {"r": 0.5}).merge(Stack(deltas))
tensor([ 4.,  0.,  0., -4.])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.cut import Cut
from deltakit.strategies._facts import derived_cuts, of_model, whole_of
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Scope, Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pcb(Strategy):
    """Let the entries compete within a task and between tasks, keep the winners, rescale.

    Within: softmax of T times the min-max normalised d_i^2 (its denominator is the same for all
    entries of a task, and cancels). Between: tanh(d_i sum d). r: fraction of a task's entries whose
    product of both is largest; the product, min-max normalised over those, is their weight in the
    mean. Entries that do not agree with the sum never win. scope: they compete in each tensor on
    its own or in the whole model, as in the published code.
    """

    r: Density = 0.1
    scope: Scope = "tensor"

    family = "election"
    formula = "sum b_i d_i / sum b_i, b_i top-r of exp(T d_i^2/max) tanh(d_i sum d)"
    paper = "Du et al. 2024, arXiv:2410.02396"
    faithful = False
    homogeneous = False

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "neither"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "model" if self.scope == "global" else "tensor"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("pcb", weights)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        shape = stack.deltas.shape[1:]
        if self.scope == "global":
            stack = of_model(stack)
        flat = stack.deltas.reshape(len(stack.deltas), -1)
        scores = self.scores(stack, flat)
        shares = torch.zeros_like(scores)
        for expert, (score, (cut, highest)) in enumerate(
            zip(scores, self.winners(stack), strict=True)
        ):
            span = highest - cut.threshold
            won = cut.keeps(score, stack.start) & (score > 0.0)
            balance = (score - cut.threshold) / span if span > 0.0 else torch.ones_like(score)
            shares[expert] = balance.where(won, balance.new_zeros(()))
        merged = ops.shared_mean(flat.double(), stack.weights, shares)
        return merged.to(flat.dtype).reshape(shape)

    def scores(self, stack: Stack, deltas: Tensor) -> Tensor:
        """Return each entry's activation, 0 where it is against the sum: float64 (k, n)."""
        wide = deltas.double()
        between = (wide * ops.weighted_sum(wide, [1.0] * len(wide))).tanh_().relu_()
        for expert, row in enumerate(between):
            low, high = self.extremes(stack, expert)
            within = (wide[expert].abs() - low) / (high - low) if high > low else row * 0
            row *= within.square_().mul_(len(wide)).exp_()
        return between

    def extremes(self, stack: Stack, expert: int) -> tuple[float, float]:
        """Return the smallest and the largest magnitude of one expert's tensor."""
        whole = whole_of(stack)

        def find() -> tuple[float, float]:
            low, high = math.inf, 0.0
            for block in whole.blocks(expert):
                if not block.numel():
                    continue
                magnitude = block.abs()
                low, high = min(low, float(magnitude.min())), max(high, float(magnitude.max()))
            return low, high

        found: tuple[float, float] = whole.fact(("extremes", expert), find)
        return found

    def winners(self, stack: Stack) -> list[tuple[Cut, float]]:
        """Return where each expert's largest scores end, and the largest of them."""
        numel = whole_of(stack).numel
        if not numel:
            return [(Cut(0.0, -1), 0.0)] * len(stack.lazy)
        cuts, first = (
            derived_cuts(stack, "pcb", partial(self.scores, stack), count)
            for count in (ops.kept_count(numel, self.r), 1)
        )
        return [(cut, largest.threshold) for cut, largest in zip(cuts, first, strict=True)]
