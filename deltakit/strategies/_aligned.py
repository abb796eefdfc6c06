"""TIES between deltas written in a basis of all of them: what knots and core_space share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.combination import Combination
from deltakit.strategies._matrix import matrices, plain_mean
from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy, check_positive_weights, name_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Aligned(Strategy):
    """Matrices merged in a basis of their own; parameters that are no matrices are averaged."""

    density: Density = 0.2

    family = "matrix"
    unit = "tensor"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights(name_of(self), weights)

    def merge(self, stack: Stack) -> Tensor:
        found = matrices(stack)
        if found is None:
            return plain_mean(stack)
        return self.merged(found, stack.weights).reshape(stack.deltas.shape[1:])

    @abstractmethod
    def merged(self, deltas: Tensor, weights: Sequence[float]) -> Tensor:
        """Return the merged delta of finite matrices: (k, rows, columns) -> (rows, columns)."""

    def elected(self, parts: Tensor, weights: Sequence[float]) -> Tensor:
        """Return what ties makes of the deltas' parts in the basis: (k, *shape) -> (*shape)."""
        return Combination.elected(Stack(parts).trimmed(self.density), weights).tensor
