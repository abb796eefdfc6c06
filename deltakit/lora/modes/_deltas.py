"""The deltas of one module as a strategy sees them: flat blocks, and facts about the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from deltakit.lazy import LazyDelta
from deltakit.lora.low_rank import LowRank
from deltakit.lora.modes._mode import Pack
from deltakit.strategies import Stack, Whole
from deltakit.strategies._whole import Together

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 18  # entries
MOST_HELD = 64_000_000  # bytes of the deltas of a module that are in memory whole
SAMPLED = 1 << 15  # entries of a sample


class Deltas:
    """The deltas of a pack, formed once where they fit in memory, else block by block each time."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self._each = [
            LowRank(p.a.T, p.b.T) if pack.turned else LowRank(p.b, p.a) for p in pack.products
        ]
        self._numel, self._dtype = prod(pack.shape), pack.products[0].a.dtype
        self.whole = Whole(
            self._numel,
            self._blocks,
            together=Together(
                len(self._each), self._side_by_side, self._sample, lambda expert: self._numel
            ),
        )

    def stacks(self, *, whole: bool = False) -> Iterator[Stack]:
        """Yield the stacks of consecutive blocks, or the one of the whole module."""
        import torch

        if whole or self._in_memory:
            step = self._numel if whole else BLOCK
            for start in range(0, self._numel, step):
                yield self._stack(self._held[:, start : start + step], start)
            return
        scratch = torch.empty(len(self._each), BLOCK, dtype=self._dtype)
        for start in range(0, self._numel, BLOCK):
            stack = scratch[:, : min(BLOCK, self._numel - start)].zero_()
            for out, delta in zip(stack, self._each, strict=True):
                delta.add_to(out, start)
            yield self._stack(stack, start)

    def _stack(self, deltas: Tensor, start: int) -> Stack:
        pack = self._pack
        return Stack(
            deltas,
            tuple(pack.weights),
            tuple(pack.tasks),
            pack.name,
            seed=pack.seed,
            start=start,
            whole=self.whole,
            shape=pack.shape,
            depth=pack.depth,
        )

    @property
    def _in_memory(self) -> bool:
        return (
            "_held" in self.__dict__
            or len(self._each) * self._numel * self._dtype.itemsize <= MOST_HELD
        )

    @cached_property
    def _held(self) -> Tensor:  # (k, numel)
        import torch

        held = torch.empty(len(self._each), self._numel, dtype=self._dtype)
        for out, delta in zip(held, self._each, strict=True):
            delta.into(out)
        return held

    def _blocks(self, expert: int) -> Iterator[Tensor]:
        return (deltas[0].tensor for deltas in self._side_by_side([expert]))

    def _side_by_side(self, experts: Sequence[int]) -> Iterator[list[LazyDelta]]:
        import torch

        for start in range(0, self._numel, BLOCK):
            stop = min(start + BLOCK, self._numel)
            if self._in_memory:
                yield [LazyDelta(self._held[expert, start:stop]) for expert in experts]
                continue
            blocks = torch.zeros(len(experts), stop - start, dtype=self._dtype)
            for out, expert in zip(blocks, experts, strict=True):
                self._each[expert].add_to(out, start)
            yield [LazyDelta(block) for block in blocks]

    def _sample(self, experts: Sequence[int]) -> Iterator[list[LazyDelta]]:
        """Yield entries from all over, in steps that come through every row and column."""
        import torch

        step = max(1, self._numel // SAMPLED)
        while math.gcd(step, self._each[0].columns) > 1:
            step += 1
        if self._in_memory:
            yield [LazyDelta(self._held[expert, ::step].contiguous()) for expert in experts]
        else:
            flat = torch.arange(0, self._numel, step)
            yield [LazyDelta(self._each[expert].entries(flat)) for expert in experts]
