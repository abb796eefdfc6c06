"""Localize-and-Stitch without data (He et al. 2024, arXiv:2408.13656).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[4.0, -1.0, 3.0, 0.5], [-2.0, 5.0, 1.0, -4.0]])
>>> get("localize_stitch", {"density": 0.5}).merge(Stack(deltas))
tensor([ 4.,  5.,  3., -4.])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.strategies._settings import Density
from deltakit.strategies._stack import Scope, Stack
from deltakit.strategies._strategy import check_positive_weights
from deltakit.strategies._streaming import Shares
from deltakit.strategies._whole import Whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LocalizeStitch(Shares):
    """Keep each expert's largest entries, and average those that several keep.

    density: fraction of each delta kept, of every tensor on its own or of the whole model (scope).
    The paper also learns the masks from data; this is its data-free form.
    """

    density: Density = 0.05
    scope: Scope = "tensor"

    family = "linear"
    formula = "sum w_i m_i d_i / sum w_i m_i, m_i the top of |d_i|"
    paper = "He et al. 2024, arXiv:2408.13656"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        if self.density == 1.0:
            return "nothing"
        return "model" if self.scope == "global" else "tensor"

    def look(self, whole: Whole, expert: int) -> None:
        if self.density < 1.0:
            whole.seek_cut(expert, self.density)

    def check_weights(self, weights: Sequence[float]) -> None:
        check_positive_weights("localize_stitch", weights)

    def shared(self, stack: Stack) -> tuple[Tensor, Tensor]:
        deltas = stack.trimmed(self.density, self.scope)
        return deltas, deltas.ne(0).to(deltas.dtype)
