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
from typing import TYPE_CHECKING

from deltakit.strategies import _sphere
from deltakit.strategies._strategy import check_positive_weights

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Nuslerp(_sphere.OnSphere):
    """Go along the arc between two deltas as far as their weights say: t = w_2 / (w_1 + w_2).

    on: the arc is drawn between the "deltas" to the base or between the "models". A straight line
    where the two are parallel or one is zero.
    """

    on: _sphere.On = "deltas"

    formula = "slerp of d_1 and d_2 at t = w_2 / (w_1 + w_2)"
    paper = "as mergekit, arXiv:2412.19819"
    most = 2

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("nuslerp", weights)

    def coefficients(self, products: np.ndarray, weights: Sequence[float]) -> list[float]:
        return _sphere.slerp(products, _sphere.shares(weights)[1])
