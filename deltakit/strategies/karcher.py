"""The Karcher mean of many models on the sphere (as mergekit, arXiv:2403.13257).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("karcher").merge(Stack(torch.tensor([[3.0, 0.0], [0.0, 4.0]])))
tensor([2.4749, 2.4749])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.strategies import _sphere
from deltakit.strategies._settings import Count
from deltakit.strategies._strategy import check_positive_weights

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Karcher(_sphere.OnSphere):
    """Find the direction nearest to all models on the sphere, at their mean length.

    The direction minimises the weighted sum of squared angles; at most `rounds` steps, fewer where
    they come to rest. The length is the weighted mean of the lengths. on: the "models" or their
    "deltas" to the base.
    """

    rounds: Count = 100
    on: _sphere.On = "models"

    formula = "|.| mean times the m with sum w_i log_m(t_i/|t_i|) = 0"
    paper = "as mergekit, arXiv:2403.13257"
    homogeneous = False

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("karcher", weights)

    def coefficients(self, products: np.ndarray, weights: Sequence[float]) -> list[float]:
        return _sphere.mean(products, weights, self.rounds)
