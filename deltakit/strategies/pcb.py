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
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.cut import Cut
from deltakit.strategies._facts import derived_cuts, of_model, whole_of
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Scope, Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights
from deltakit.strategies._whole import SHORT, Whole

if TYPE_CHECKING:
    from torch import Tensor


_PIECE = 1 << 15  # entries: what is made of them in float64 stays in cache


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

    def look(self, whole: Whole, expert: int) -> None:
        if expert == 0 and whole.experts > 1:  # all are read together
            self.winners(whole, whole.experts)

    def merge(self, stack: Stack) -> Tensor:
        import torch

        shape = stack.deltas.shape[1:]
        if self.scope == "global":
            stack = of_model(stack)
        whole, flat = whole_of(stack), stack.deltas.reshape(len(stack.deltas), -1)
        merged = torch.empty_like(flat[0])
        for start in range(0, len(merged), _PIECE):
            piece = slice(start, start + _PIECE)
            merged[piece] = self._shared(whole, flat[:, piece], stack.weights, stack.start + start)
        return merged.reshape(shape)

    def _shared(self, whole: Whole, flat: Tensor, weights: Sequence[float], start: int) -> Tensor:
        """Return the mean of entries from index `start` on, each expert's by its share: float64."""
        import torch

        scores = self.scores(whole, flat)
        shares = torch.zeros_like(scores)
        for expert, (score, (cut, highest)) in enumerate(
            zip(scores, self.winners(whole, len(scores)), strict=True)
        ):
            span = highest - cut.threshold
            won = cut.keeps(score, start) & (score > 0.0)
            balance = (score - cut.threshold) / span if span > 0.0 else torch.ones_like(score)
            shares[expert] = balance.where(won, balance.new_zeros(()))
        return ops.shared_mean(flat.double(), weights, shares)

    def scores(self, whole: Whole, deltas: Tensor) -> Tensor:
        """Return each entry's activation, 0 where it is against the sum: float64 (k, n)."""
        wide = deltas.double()
        between = (wide * ops.weighted_sum(wide, [1.0] * len(wide))).tanh_().relu_()
        for row, own, (low, high) in zip(
            between, wide, self.extremes(whole, len(wide)), strict=True
        ):
            within = (own.abs() - low) / (high - low) if high > low else row * 0
            row *= within.square_().mul_(len(wide)).exp_()
        return between

    def extremes(self, whole: Whole, experts: int) -> list[tuple[float, float]]:
        """Return the smallest and the largest magnitude of each expert's tensor."""

        def find() -> list[tuple[float, float]]:
            found = [(math.inf, 0.0)] * experts
            if not whole.numel:
                return found
            for block in whole.side_by_side(experts, SHORT):
                for expert, ((low, high), delta) in enumerate(zip(found, block, strict=True)):
                    magnitude = delta.tensor.abs()
                    least, most = float(magnitude.min()), float(magnitude.max())
                    found[expert] = min(low, least), max(high, most)
            return found

        found: list[tuple[float, float]] = whole.fact("extremes", find)
        return found

    def winners(self, whole: Whole, experts: int) -> list[tuple[Cut, float]]:
        """Return where each expert's largest scores end, and the largest of them."""
        if not whole.numel:
            return [(Cut(0.0, -1), 0.0)] * experts

        def twice(deltas: Tensor) -> list[Tensor]:
            return list(self.scores(whole, deltas)) * 2

        count = ops.kept_count(whole.numel, self.r)
        found = derived_cuts(whole, experts, "pcb", twice, [count] * experts + [1] * experts)
        largest = [cut.threshold for cut in found[experts:]]
        return list(zip(found[:experts], largest, strict=True))
