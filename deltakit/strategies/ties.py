"""TIES-Merging (Yadav et al. 2023, arXiv:2306.01708).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[4, -1, 3, 0.5, -2], [-2, 5, 1, -4, -3], [3, -6, 0.2, 1, -1]])
>>> get("ties", {"density": 0.6}).merge(Stack(deltas))
tensor([ 3.5000, -6.0000,  3.0000, -4.0000, -2.5000])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.combination import Combination
from deltakit.formula import Formula
from deltakit.lazy import LazyDeltas
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Scope, Stack
from deltakit.strategies._strategy import Trimming, check_positive_weights, check_votes
from deltakit.strategies._streaming import (
    Running,
    Streaming,
    added,
    sides,
    winning_mean,
    winning_sum,
)
from deltakit.strategies._whole import Whole
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Ties(Trimming, Streaming):
    """Trim each delta, elect one sign per entry, average the deltas that agree with it.

    density: fraction of each delta kept, the largest magnitudes, of every tensor on its own or of
    the whole model (scope). elect: the sign of the weighted sum ("mass") or the sign that more
    experts hold ("count"). divide: by the agreeing experts' weights, or by their number ("count",
    as PEFT does). combine: "mean" or "sum" of those that agree. A task of weight 0 is as if left
    out; where tasks are counted, none may have it.

    Where the sum or the count is level, no sign is elected and the entry is 0. PEFT elects + there,
    sums without the weights, and keeps int(density * n) entries where this keeps the nearest
    number, at least one.
    """

    density: Density = 0.2
    scope: Scope = "tensor"
    elect: Literal["mass", "count"] = "mass"
    divide: Literal["weights", "count"] = "weights"
    combine: Literal["mean", "sum"] = "mean"

    family = "election"
    formula = "mean of the trimmed w_i d_i whose sign is sign(sum w_i d_i)"
    paper = "Yadav et al. 2023, arXiv:2306.01708"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        if self.density == 1.0:
            return "nothing"
        return "model" if self.scope == "global" else "tensor"

    @property
    def trims(self) -> float | None:
        return self.density if self.looks == "tensor" else None

    @property
    def combines(self) -> Literal["mean", "sum"]:
        return self.combine

    def look(self, whole: Whole, expert: int) -> None:
        whole.seek_cut(expert, self.density)

    def check_weights(self, weights: Sequence[float]) -> None:
        by_weight = self.elect == "mass" and (self.combine == "sum" or self.divide == "weights")
        (check_votes if by_weight else check_positive_weights)("ties", weights)

    def combination(self, stack: Stack) -> Combination:
        return self.of_trimmed(stack.lazy_trimmed(self.density, self.scope), stack.weights)

    def of_trimmed(self, deltas: LazyDeltas, weights: Sequence[float]) -> Combination:
        count = self.elect == "count"
        votes = [1.0] * len(deltas) if count else weights
        formula = Formula(weights, votes=votes, divisors=self.divisors(weights), by_count=count)
        return Combination(deltas, formula)

    def divisors(self, weights: Sequence[float]) -> Sequence[float] | None:
        """Return what each agreeing expert adds to the divisor; None for a sum."""
        if self.combine == "sum":
            return None
        return weights if self.divide == "weights" else [1.0] * len(weights)

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        masses = ("plus_mass", "minus_mass") if self.combine == "mean" else ()
        return dict.fromkeys(("votes", "plus", "minus", *masses), info)

    def add(self, before: Running, stack: Stack) -> Running:
        deltas = stack.lazy_trimmed(self.density, self.scope)  # (k, *shape)
        if self.elect == "mass":
            votes = added(before.get("votes"), deltas, stack.weights)
        else:
            votes = added(before.get("votes"), deltas.tensor.sign(), [1.0] * len(deltas))
        both = sides(before, deltas, stack.weights, self.divisors(stack.weights))
        return {"votes": votes, **both}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        elected = running["votes"].sign()
        if self.combine == "sum":
            return winning_sum(running, elected)
        return winning_mean(running, elected)
