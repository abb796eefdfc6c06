"""Fisher-weighted averaging (Matena & Raffel 2022, arXiv:2111.09832).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> scores = (torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
>>> get("fisher").merge(Stack(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), scores=scores))
tensor([2.0000, 3.0000])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._scores import element_scores
from deltakit.strategies._settings import NotNegative
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import check_positive_weights
from deltakit.strategies._streaming import Shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fisher(Shares):
    """Average the models entry by entry, each weighted by its Fisher information.

    floor: added to each score, so that an entry that matters to no task is averaged; in the scores'
    own unit, as published. Scores may be of elements, rows or tensors.
    """

    floor: NotNegative = 1e-6

    family = "importance"
    formula = "sum w_i F_i d_i / sum w_i F_i"
    paper = "Matena & Raffel 2022, arXiv:2111.09832"
    needs_importance = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("fisher", weights)

    def shared(self, stack: Stack) -> tuple[Tensor, Tensor]:
        return stack.deltas, element_scores(stack).add_(self.floor)
