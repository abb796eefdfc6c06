"""MetaGPT (Zhou et al. 2024, arXiv:2406.11385).

>>> import torch
>>> from deltakit.strategies import Stack, weights
>>> weights.get("metagpt").weights(Stack(torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
(0.1, 0.9)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from deltakit.strategies._facts import squares
from deltakit.strategies._stack import Stack
from deltakit.strategies._weighting import Weighting


@dataclass(frozen=True)
class Metagpt(Weighting):
    """Weigh each task by its delta's squared norm: |d_i|^2 / sum |d_j|^2.

    It minimises the loss of task arithmetic where tasks are orthogonal and locally linear. scope:
    norms over the whole "model", or of each "tensor" on its own.
    """

    scope: Literal["tensor", "model"] = "model"

    paper = "Zhou et al. 2024, arXiv:2406.11385"
    formula = "|d_i|^2 / sum |d_j|^2"

    def weights(self, stack: Stack) -> tuple[float, ...]:
        experts = len(stack.deltas)
        norms = [math.fsum(squares(self.whole(stack), i)) for i in range(experts)]
        total = math.fsum(norms)
        return tuple(norm / total if total else 1.0 / experts for norm in norms)
