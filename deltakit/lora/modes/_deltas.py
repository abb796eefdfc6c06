"""The deltas of one module as a strategy sees them: flat blocks, and facts about the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    """The deltas of a pack, formed as they are asked for.

    Where a strategy looks at a whole module first, they stay in memory if they are not too large.
    """

    def __init__(self, pack: Pack) -> None:
        self._pack, self._formed = pack, _Formed(pack)
        formed = self._formed
        together = Together(len(pack.products), formed.side_by_side, formed.sample, formed.most)
        self.whole = Whole(formed.numel, formed.blocks, together=together)

    def stacks(self, *, whole: bool = False) -> Iterator[Stack]:
        """Yield the stacks of consecutive blocks, or the one of the whole module."""
        pack, formed = self._pack, self._formed
        step = formed.numel if whole else BLOCK
        for start in range(0, formed.numel, step):
            yield Stack(
                formed.block(start, min(start + step, formed.numel)),
                tuple(pack.weights),
                tuple(pack.tasks),
                pack.name,
                seed=pack.seed,
                start=start,
                whole=self.whole,
                shape=pack.shape,
                depth=pack.depth,
            )


class _Formed:
    """What a whole's facts are found from; it does not know of them, so that both go together."""

    def __init__(self, pack: Pack) -> None:
        self._each = [
            LowRank(p.a.T, p.b.T) if pack.turned else LowRank(p.b, p.a) for p in pack.products
        ]
        self.numel, self._dtype = prod(pack.shape), pack.products[0].a.dtype
        self._held: Tensor | None = None  # (k, numel)

    def block(self, start: int, stop: int) -> Tensor:
        """Return entries start..stop of all deltas: (k, n)."""
        if stop - start == self.numel:
            return self._hold()
        if self._held is not None:
            return self._held[:, start:stop]
        return self._form(range(len(self._each)), start, stop)

    def _form(self, experts: Sequence[int], start: int, stop: int) -> Tensor:
        import torch

        out = torch.zeros(len(experts), stop - start, dtype=self._dtype)
        for row, expert in zip(out, experts, strict=True):
            self._each[expert].add_to(row, start)
        return out

    def _hold(self) -> Tensor:
        import torch

        if self._held is None:
            held = torch.empty(len(self._each), self.numel, dtype=self._dtype)
            for out, delta in zip(held, self._each, strict=True):
                delta.into(out)
            self._held = held
        return self._held

    def blocks(self, expert: int) -> Iterator[Tensor]:
        return (deltas[0].tensor for deltas in self.side_by_side([expert], BLOCK))

    def side_by_side(self, experts: Sequence[int], entries: int) -> Iterator[list[LazyDelta]]:
        if len(self._each) * self.numel * self._dtype.itemsize <= MOST_HELD:
            self._hold()
        for start in range(0, self.numel, entries):
            stop = min(start + entries, self.numel)
            if self._held is None:
                yield [LazyDelta(row) for row in self._form(experts, start, stop)]
            else:
                yield [LazyDelta(self._held[expert, start:stop]) for expert in experts]

    def sample(self, experts: Sequence[int]) -> Iterator[list[LazyDelta]]:
        """Yield entries from all over, in steps that come through every row and column."""
        import torch

        step = max(1, self.numel // SAMPLED)
        while math.gcd(step, self._each[0].columns) > 1:
            step += 1
        flat = torch.arange(0, self.numel, step)
        yield [LazyDelta(self._each[expert].entries(flat)) for expert in experts]

    def most(self, expert: int) -> int:
        """Return how many entries of a delta may be other than 0."""
        return self.numel if self._each[expert].left.shape[1] else 0
