"""One step of the mean on the sphere of many deltas (as mergekit, arXiv:2403.13257).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("multislerp").merge(Stack(torch.tensor([[3.0, 0.0], [0.0, 4.0]])))
tensor([2.4749, 2.4749])
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
class Multislerp(_sphere.OnSphere):
    """Average the directions of many deltas on the sphere, at their mean length.

    The directions d_i / |d_i| are carried to the tangent plane at their normalised mean, averaged
    there by weight, and carried back; the length is the weighted mean of the lengths. on: "deltas"
    to the base or the "models". karcher repeats the step.
    """

    on: _sphere.On = "deltas"

    formula = "|.| mean times exp_m(sum w_i log_m(d_i/|d_i|)), m their mean"
    paper = "as mergekit, arXiv:2403.13257"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("multislerp", weights)

    def coefficients(self, products: np.ndarray, weights: Sequence[float]) -> list[float]:
        return _sphere.mean(products, weights, 1)
