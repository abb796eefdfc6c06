"""Task arithmetic (Ilharco et al. 2023, arXiv:2212.04089).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("task_arithmetic").merge(Stack(torch.tensor([[1.0, 2.0], [3.0, -2.0]])))
tensor([4., 0.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.lazy import LazyDeltas
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Sums

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TaskArithmetic(Sums):
    """Add the deltas: t0 + scale * sum w_i d_i. A negative weight takes a task away."""

    formula = "sum w_i d_i"
    paper = "Ilharco et al. 2023, arXiv:2212.04089"

    def thinned(self, stack: Stack) -> LazyDeltas:
        return stack.lazy
