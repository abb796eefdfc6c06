"""Dropping entries at random, and the three ways to rescale what is left."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from deltakit.dtypes import torch_dtype
from deltakit.lazy import LazyDeltas
from deltakit.strategies._masking import SMALLEST
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Strategy

Rescale = Literal["none", "inverse", "l1"]


class Drops(Strategy):
    """What dropping at random with a `rescale` means for a merge; the formula is the subclass's."""

    rescale: Rescale

    draws_entries = True

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        return "tensor" if self.rescale == "l1" else "nothing"

    def takes_stored(self, facts: Collection[Any]) -> bool:
        return self.rescale != "l1"


def drop(stack: Stack, density: float, rescale: Rescale) -> LazyDeltas:
    """Return the deltas with entries dropped at random: (k, *shape) -> (k, *shape).

    Each entry is kept with probability `density`, by the mask of (seed, task, tensor); then
    multiplied by 1 ("none"), 1 / density ("inverse"), or by what restores the L1 norm of the
    whole tensor ("l1"; a tensor with nothing left stays zero).
    """
    dropped = stack.lazy.dropped(
        stack.lazy_drawn(density), max(density, SMALLEST) if rescale == "inverse" else 1.0
    )
    if rescale != "l1":
        return dropped
    deltas = dropped.tensor.clone()
    for expert, delta in enumerate(deltas):
        delta *= _l1_factor(stack, expert, density)
    return LazyDeltas.of(deltas)


def _l1_factor(stack: Stack, expert: int, density: float) -> float:
    import torch

    whole = stack.whole
    assert whole is not None
    before = whole.total("l1", expert, lambda block, _: block.abs())
    after = whole.total(
        f"l1 after drop to {density!r}",
        expert,
        lambda block, start: (
            stack.draw(expert, density, start, block.numel()).to(block.dtype).mul_(block).abs_()
        ),
    )
    # Where next to nothing is left, the largest finite factor: infinity times 0 is no number.
    return min(before / after, torch.finfo(torch_dtype(stack.lazy.dtype)).max) if after else 0.0
