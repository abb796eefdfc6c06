"""Spherical linear interpolation of two models (Shoemake 1985; as mergekit, arXiv:2403.13257).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("slerp", {"t": 0.25}).merge(Stack(torch.tensor([[3.0, 0.0], [0.0, 4.0]])))
tensor([2.7716, 1.5307])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.strategies import _sphere
from deltakit.strategies._settings import Share

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Slerp(_sphere.OnSphere):
    """Go along the arc from the first model to the second, tensor by tensor.

    t: how far, 0 for the first model and 1 for the second. on: the arc is drawn between the
    "models" or between their "deltas" to the base. Where the two are parallel (|cos| > .9995, as
    fine-tunes of one base nearly always are) or one is zero, it is the straight line.
    """

    t: Share = 0.5
    on: _sphere.On = "models"

    formula = "sin((1-t)A)/sin A x_1 + sin(tA)/sin A x_2, A the angle of x_1 and x_2"
    paper = "Shoemake 1985; as mergekit, arXiv:2403.13257"
    ordered = True
    weighted = False
    homogeneous = False
    most = 2

    def coefficients(self, products: np.ndarray, weights: Sequence[float]) -> list[float]:
        return _sphere.slerp(products, self.t)
