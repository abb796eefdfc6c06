"""Sums whose coefficients follow from the inner products of the experts' whole tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from deltakit.strategies._facts import gram, whole_of
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Combining
from deltakit.strategies._whole import Whole

if TYPE_CHECKING:
    import numpy as np


class ByProducts(Combining):
    """A sum of deltas; inner products are all that it must know of a whole tensor."""

    @property
    def of_models(self) -> bool:
        """Whether the products are those of the models, not of their deltas."""
        return False

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor"

    def look(self, whole: Whole, expert: int) -> None:
        if expert == 0 and whole.experts > 1:  # all are read together
            gram(whole, whole.experts, of_models=self.of_models)

    def products(self, stack: Stack) -> np.ndarray:
        """Return the inner products of every pair, in float64: (k, k)."""
        return gram(whole_of(stack), len(stack.lazy), of_models=self.of_models)
