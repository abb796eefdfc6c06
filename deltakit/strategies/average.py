"""Weighted average of models, "model soup" (Wortsman et al. 2022, arXiv:2203.05482).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("average").merge(Stack(torch.tensor([[1.0, 2.0], [3.0, -2.0]])))
tensor([2., 0.])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.combination import Combination
from deltakit.errors import BadValue
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Combining
from deltakit.strategies._streaming import Running, Streaming, added_to_mean, mean, mean_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Average(Combining, Streaming):
    """Average the models: sum w_i t_i / sum w_i.

    Weights that sum to one make this the same on models and on their deltas to a base, which is
    what is computed: t0 + sum w_i d_i / sum w_i.
    """

    formula = "sum w_i d_i / sum w_i"
    paper = "Wortsman et al. 2022, arXiv:2203.05482"

    @property
    def combines(self) -> Literal["mean", "sum"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        if abs(math.fsum(weights)) <= 1e-9 * math.fsum(map(abs, weights)):
            raise BadValue("the weights of an average sum to 0")

    def add(self, before: Running, stack: Stack) -> Running:
        return {"sum": added_to_mean(before.get("sum"), stack.lazy, stack.weights)}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return mean_of(running["sum"], weights)

    def combination(self, stack: Stack) -> Combination:
        return mean(stack.lazy, stack.weights)
