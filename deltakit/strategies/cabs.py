"""CABS: conflict-aware, balanced sparsity (Yang et al. 2025, arXiv:2503.01874).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> a, b = [5.0, -1.0, 2.0, 4.0, 3.0, -6.0, 1.0, 0.5], [7.0, 3.0, -2.0, 1.0, 2.0, -1.0, 4.0, -5.0]
>>> get("cabs").merge(Stack(torch.tensor([a, b])))
tensor([ 5.,  3., -2.,  4.,  3., -6.,  4., -5.])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._settings import Count
from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import Running, Streaming, added
from deltakit.strategies.masks.nm import Nm
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cabs(Streaming):
    """Keep the n largest of every m that no earlier task keeps, and add.

    n of every m consecutive entries of a row are a task's. Put the task that matters most first.
    """

    n: Count = 2
    m: Count = 4

    formula = "sum w_i m_i d_i, m_i the top n of every m that no earlier m_j has"
    paper = "Yang et al. 2025, arXiv:2503.01874"
    unit = "row"
    ordered = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check(self) -> None:
        self.mask()

    def mask(self) -> Nm:
        """Return the mask that goes before the sum."""
        return Nm(self.n, self.m, "excluded")

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return {"sum": info, "taken": TensorInfo("BOOL", info.shape)}

    def add(self, before: Running, stack: Stack) -> Running:
        masked, taken = self.mask().take(stack, before.get("taken"))
        return {"sum": added(before.get("sum"), masked, stack.weights), "taken": taken}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return running["sum"]
