"""One step of the mean on the sphere of many deltas (as mergekit, arXiv:2403.13257).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("multislerp").merge(Stack(torch.tensor([[3.0, 0.0], [0.0, 4.0]])))
tensor([2.4749, 2.4749])
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
class Multislerp(Strategy):
    """Average the directions of many deltas on the sphere, at their mean length.

    The directions d_i / |d_i| are carried to the tangent plane at their normalised mean, averaged
    there by weight, and carried back; the length is the weighted mean of the lengths. on: "deltas"
    to the base or the "models". karcher repeats the step.
    """

    on: _sphere.On = "deltas"

    family = "sphere"
    formula = "|.| mean times exp_m(sum w_i log_m(d_i/|d_i|)), m their mean"
    paper = "as mergekit, arXiv:2403.13257"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("multislerp", weights)

    def merge(self, stack: Stack) -> Tensor:
        products = _sphere.products(stack, self.on)
        coefficients = _sphere.mean(products, stack.weights, 1)
        return _sphere.combined(stack, self.on, coefficients)
