"""Spherical linear interpolation of two models (Shoemake 1985; as mergekit, arXiv:2403.13257).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("slerp", {"t": 0.25}).merge(Stack(torch.tensor([[3.0, 0.0], [0.0, 4.0]])))
tensor([2.7716, 1.5307])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies import _sphere
from deltakit.strategies._settings import Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Slerp(Strategy):
    """Go along the arc from the first model to the second, tensor by tensor.

    t: how far, 0 for the first model and 1 for the second. on: the arc is drawn between the
    "models" or between their "deltas" to the base. Where the two are parallel (|cos| > .9995, as
    fine-tunes of one base nearly always are) or one is zero, it is the straight line.
    """

    t: Share = 0.5
    on: _sphere.On = "models"

    family = "sphere"
    formula = "sin((1-t)A)/sin A x_1 + sin(tA)/sin A x_2, A the angle of x_1 and x_2"
    paper = "Shoemake 1985; as mergekit, arXiv:2403.13257"
    ordered = True
    weighted = False
    homogeneous = False
    most = 2

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def merge(self, stack: Stack) -> Tensor:
        if len(stack.deltas) == 1:
            return stack.deltas[0].clone()
        coefficients = _sphere.slerp(_sphere.products(stack, self.on), self.t)
        return _sphere.combined(stack, self.on, coefficients)
