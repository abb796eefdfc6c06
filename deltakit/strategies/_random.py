"""Dropping entries at random, and the three ways to rescale what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor

Rescale = Literal["none", "inverse", "l1"]


def kept_density(p: float) -> float:
    """Return 1 - p without the noise of binary fractions: a drop rate of 0.9 keeps 0.1."""
    return round(1.0 - p, 12)


def drop(stack: Stack, density: float, rescale: Rescale) -> Tensor:
    """Return the deltas with entries dropped at random: (k, *shape) -> (k, *shape).

    Each entry is kept with probability `density`, by the mask of (seed, task, tensor); then
    multiplied by 1 ("none"), 1 / density ("inverse"), or by what restores the L1 norm of the
    whole tensor ("l1"; a tensor with nothing left stays zero).
    """
    dropped = stack.deltas * stack.drawn(density)
    if rescale == "inverse":
        return ops.rescale(dropped, [1.0 / density] * len(dropped))
    if rescale == "l1":
        return ops.rescale(dropped, [_l1_factor(stack, i, density) for i in range(len(dropped))])
    return dropped


def _l1_factor(stack: Stack, expert: int, density: float) -> float:
    whole = stack.whole
    assert whole is not None
    before = whole.total("l1", expert, lambda block, _: block.abs())
    after = whole.total(
        f"l1 after drop to {density!r}",
        expert,
        lambda block, start: block.abs() * stack.draw(expert, density, start, block.numel()),
    )
    return before / after if after else 0.0
