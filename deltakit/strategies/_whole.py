"""Facts about a whole parameter, or a whole model, found by streaming."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from deltakit import ops
from deltakit.cut import Cut
from deltakit.lazy import LazyDelta
from deltakit.trim import find_cut, find_cuts

if TYPE_CHECKING:
    from torch import Tensor

MOST_TOGETHER = 4
# Entries of a block, the same for every merge, so that a sum of a tensor does not depend on how
# the work is cut: what is not computed may be long, what is computed in float64 must not.
LONG, SHORT = 1 << 19, 1 << 17
_PLACES, _APART = (8, 64), 1 << 21  # of a sample: fewest and most, and as far apart as that
_STRETCH, _SHARE = (2048, 16384), 256  # entries at each: fewest and most, and such a part of all


@dataclass(frozen=True)
class Together:
    """How several experts are read side by side, and the base they share only once.

    `blocks(experts, entries)` yields consecutive blocks of so many entries, one of each expert, not
    yet computed; `sample(experts)` stretches from all over; `most(expert)` tells how many entries
    may be other than 0.
    """

    experts: int
    blocks: Callable[[Sequence[int], int], Iterable[Sequence[LazyDelta]]]
    sample: Callable[[Sequence[int]], Iterable[Sequence[LazyDelta]]]
    most: Callable[[int], int]

    def group(self, expert: int) -> range:
        """Return the experts that are read together with this one: a few, to bound memory."""
        start = expert - expert % MOST_TOGETHER
        return range(start, min(start + MOST_TOGETHER, self.experts))


def _copied(block: Tensor) -> LazyDelta:
    return LazyDelta(block.clone())


class Whole:
    """Facts about all entries that a slice is taken from, each found once, by streaming.

    `blocks(expert)` yields consecutive flat blocks of that expert's delta. Their size is fixed and
    not the engine's block size, so that a sum has the same bits however the work is cut. Threads
    that ask for one fact wait for the first of them; different facts are found side by side.
    `together` reads several experts side by side, by which their cuts are found sooner. `base()`,
    where a base is at hand, yields it in blocks of LONG entries, as `side_by_side` does. `parts`
    are the entries of each parameter where this is a whole model.
    """

    def __init__(
        self,
        numel: int,
        blocks: Callable[[int], Iterable[Tensor]],
        *,
        together: Together | None = None,
        base: Callable[[], Iterable[LazyDelta]] | None = None,
        parts: Sequence[int] = (),
    ) -> None:
        self.numel, self.base = numel, base
        self.parts = tuple(parts) or (numel,)
        self._blocks, self._together = blocks, together
        self._known: dict[Any, Any] = {}
        self._locks: dict[Any, threading.Lock] = {}
        self._lock = threading.Lock()  # held only to find a fact's own lock

    @property
    def experts(self) -> int:
        """How many experts are at hand side by side: 0 where each is read by itself."""
        return 0 if self._together is None else self._together.experts

    def cut(self, expert: int, density: float) -> Cut:
        """Return where a trim of this expert to `density` cuts."""
        return self.cut_at(expert, ops.kept_count(self.numel, density))

    def cut_at(self, expert: int, count: int) -> Cut:
        """Return where the `count` largest magnitudes of this expert's delta end, zeros aside."""
        if count == 0:
            return Cut(float("inf"), -1)
        if self._together is None:
            find = partial(find_cut, partial(self._blocks, expert), count)
            return self._once(("cut", expert, count), find)
        group = self._together.group(expert)
        return self._once(("cuts", group, count), lambda: self._find_cuts(group, count))[expert]

    def _find_cuts(self, group: range, count: int) -> dict[int, Cut]:
        together = self._together
        assert together is not None
        cuts = dict.fromkeys(group, Cut.none())
        # Of a sparse delta with few values only zeros would be cut.
        experts = [expert for expert in group if together.most(expert) > count]
        if experts:
            read, sample = (
                partial(together.blocks, experts, LONG),
                partial(together.sample, experts),
            )
            found = find_cuts(read, sample, [count] * len(experts), self.numel)
            cuts |= zip(experts, found, strict=True)
        return cuts

    def seek_cut(self, expert: int, density: float) -> None:
        """Find the cut of this expert, unless that is done where another's is sought."""
        if self.leads(expert):
            self.cut(expert, density)

    def leads(self, expert: int) -> bool:
        """Tell whether cuts of this expert are not found together with those of one before it."""
        return self._together is None or expert == self._together.group(expert).start

    def blocks(self, expert: int) -> Iterable[Tensor]:
        """Return one expert's delta as consecutive flat blocks, in memory used again."""
        return self._blocks(expert)

    def side_by_side(self, experts: int, entries: int) -> Iterable[Sequence[LazyDelta]]:
        """Return consecutive blocks of all experts: each valid until the next is asked for.

        Of `entries` entries, where they are read side by side.
        """
        if self._together is not None:
            return self._together.blocks(range(experts), entries)
        # A reader may use one buffer for all: each block is copied before the next is read.
        each = (map(_copied, self._blocks(expert)) for expert in range(experts))
        return zip(*each, strict=True)

    def sample(self, experts: int) -> Iterable[Sequence[LazyDelta]]:
        """Return stretches of all experts from all over, or all there is."""
        if self._together is not None:
            return self._together.sample(range(experts))
        return self.side_by_side(experts, SHORT)

    def fact(self, key: Any, find: Callable[[], Any]) -> Any:
        """Return what `find` finds, remembered by `key`; it reads `blocks`, never a slice."""
        return self._once(key, find)

    def total(self, key: str, expert: int, values: Callable[[Tensor, int], Tensor]) -> float:
        """Return the float64 sum of `values(block, start)` over the expert, remembered by `key`."""
        return self._once((key, expert), lambda: self._sum(expert, values))

    def _sum(self, expert: int, values: Callable[[Tensor, int], Tensor]) -> float:
        import numpy as np

        total, start = 0.0, 0
        for block in self._blocks(expert):
            # numpy adds pairwise in a fixed order; torch's order depends on the processor.
            total += float(np.add.reduce(values(block, start).numpy(), dtype=np.float64))
            start += block.numel()
        return total

    def _once(self, key: Any, find: Callable[[], Any]) -> Any:
        with self._lock:
            of_key = self._locks.setdefault(key, threading.Lock())
        with of_key:
            if key not in self._known:
                self._known[key] = find()
            return self._known[key]


def stretches(numel: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a sample from all over `numel` entries, the last perhaps past the end."""
    places = min(max(numel // _APART, _PLACES[0]), _PLACES[1])
    length = min(max(numel // _SHARE, _STRETCH[0]), _STRETCH[1])
    return ((at, at + length) for at in (place * numel // places for place in range(places)))
