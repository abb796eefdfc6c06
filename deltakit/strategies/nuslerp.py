"""Spherical interpolation of two deltas by their weights (as mergekit, arXiv:2412.19819).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> stack = Stack(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), weights=(1.0, 3.0))
>>> get("nuslerp").merge(stack)
tensor([1.1481, 3.6955])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies import _sphere
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Nuslerp(Strategy):
    """Go along the arc between two deltas as far as their weights say: t = w_2 / (w_1 + w_2).

    on: the arc is drawn between the "deltas" to the base or between the "models". A straight line
    where the two are parallel or one is zero.
    """

    on: _sphere.On = "deltas"

    family = "sphere"
    formula = "slerp of d_1 and d_2 at t = w_2 / (w_1 + w_2)"
    paper = "as mergekit, arXiv:2412.19819"
    most = 2

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("nuslerp", weights)

    def merge(self, stack: Stack) -> Tensor:
        if len(stack.deltas) == 1:
            return stack.deltas[0].clone()
        t = _sphere.shares(stack.weights)[1]
        coefficients = _sphere.slerp(_sphere.products(stack, self.on), t)
        return _sphere.combined(stack, self.on, coefficients)
