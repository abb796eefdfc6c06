"""RAM, Reinforced Agent Merging (Yuan et al. 2026, arXiv:2601.13572).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("ram").merge(Stack(torch.tensor([[2.0, 0.0, 4.0, 0.0], [0.0, 3.0, 2.0, 0.0]])))
tensor([2., 3., 3., 0.])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import check_positive_weights
from deltakit.strategies._streaming import Shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Ram(Shares):
    """Keep what one expert alone changed as it is; average what several changed.

    An expert counts at an entry where its delta is not zero, so this suits sparse deltas: of dense
    ones it is the average. The rescaling of unique entries that RAM+ adds is not done.
    """

    family = "linear"
    formula = "sum w_i d_i / sum of the w_i with d_i != 0"
    paper = "Yuan et al. 2026, arXiv:2601.13572"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("ram", weights)

    def shared(self, stack: Stack) -> tuple[Tensor, Tensor]:
        return stack.deltas, stack.deltas.ne(0).to(stack.deltas.dtype)
