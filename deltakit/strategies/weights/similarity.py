"""Weights that count alike tasks once, from their cosines.

>>> import torch
>>> from deltakit.strategies import Stack, weights
>>> deltas = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
>>> [round(weight, 6) for weight in weights.get("similarity").weights(Stack(deltas))]
[0.5, 0.5, 1.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deltakit.strategies._facts import cosines, gram
from deltakit.strategies._stack import Stack
from deltakit.strategies._weighting import Weighting


@dataclass(frozen=True)
class Similarity(Weighting):
    """Weigh tasks by K^-1 1, K the cosines of their deltas.

    Orthogonal tasks weigh 1 each, n copies of one task 1/n each; where K has no inverse, its
    pseudo-inverse is taken. scope: cosines over the whole "model", or of each "tensor". A delta of
    zero weighs 1.
    """

    scope: Literal["tensor", "model"] = "model"

    paper = "kriging weights of a constant; Cressie 1990"
    formula = "K^+ 1, K_ij = cos(d_i, d_j)"

    def weights(self, stack: Stack) -> tuple[float, ...]:
        import numpy as np

        found = cosines(gram(self.whole(stack), len(stack.deltas)))
        found = np.where(np.isnan(found), np.eye(len(found)), found)
        weights: np.ndarray = np.linalg.pinv(found, rcond=1e-9, hermitian=True).sum(axis=1)
        return tuple(weights.tolist())
