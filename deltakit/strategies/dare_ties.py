"""DARE before TIES' election (Yu et al. 2024, arXiv:2311.03099).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> get("dare_ties", {"p": 0.5}).merge(Stack(torch.tensor([[1.0] * 8, [-3.0] * 8])))
tensor([-6., -6., -6.,  2.,  2., -6., -6., -6.])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._random import Drops, Rescale, drop
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import check_fraction, check_positive_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DareTies(Drops):
    """Drop at random and rescale as dare, then elect a sign and average as ties.

    p: the drop rate. rescale: "inverse", "l1" or "none", as in dare.
    """

    p: float = 0.9
    rescale: Rescale = "inverse"

    paper = "Yu et al. 2024, arXiv:2311.03099"

    def check(self) -> None:
        check_fraction("p", self.p, zero=True, one=False)

    @property
    def combines(self) -> Literal["mean", "sum"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("dare_ties", weights)

    def merge(self, stack: Stack) -> Tensor:
        deltas = drop(stack, ops.kept_density(self.p), self.rescale)  # (k, *shape)
        elected = ops.elect_sign(deltas, stack.weights)  # (*shape)
        return ops.disjoint_mean(deltas, stack.weights, elected)
