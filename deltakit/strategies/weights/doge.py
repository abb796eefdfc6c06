"""DOGE's task-aware scale (Wei et al. 2025, arXiv:2501.01230).

>>> import torch
>>> from deltakit.strategies import Stack, weights
>>> deltas = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
>>> weights.get("doge", {"eta": 1}).weights(Stack(deltas))
(0.2, 2.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from deltakit.strategies._facts import squares
from deltakit.strategies._settings import Positive
from deltakit.strategies._stack import Stack
from deltakit.strategies._weighting import Weighting

_MOST = 1e30  # a weight that float32 can multiply by


@dataclass(frozen=True)
class Doge(Weighting):
    """Weigh each task by eta / |d_i|, so that every task moves the same distance.

    scope: norms of each "tensor", as published, or over the whole "model". eta: that distance. A
    delta of zero weighs 1. Only this scale is taken of the method, not its projected descent.
    """

    scope: Literal["tensor", "model"] = "tensor"
    eta: Positive = 0.07

    paper = "Wei et al. 2025, arXiv:2501.01230"
    formula = "eta / |d_i|"

    def weights(self, stack: Stack) -> tuple[float, ...]:
        whole = self.whole(stack)
        norms = [math.sqrt(math.fsum(squares(whole, i))) for i in range(len(stack.deltas))]
        return tuple(min(self.eta / norm, _MOST) if norm else 1.0 for norm in norms)
