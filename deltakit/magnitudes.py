"""Magnitudes as bit patterns: those of IEEE floats order as the floats do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from deltakit import kernels
from deltakit.lazy import LazyDelta

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Called anew for each pass; yields consecutive flat float32 or float64 blocks.
Blocks: TypeAlias = Callable[[], Iterable["Tensor | LazyDelta"]]

_HIGHEST_32 = (1 << 31) - 1  # above every bit pattern of a float32 magnitude


def patterns(block: Tensor | LazyDelta) -> np.ndarray:
    """Return the bit patterns of magnitudes, which are never negative as signed integers."""
    import torch

    flat = block.tensor if isinstance(block, LazyDelta) else block
    kind = torch.int64 if flat.dtype == torch.float64 else torch.int32
    found: np.ndarray = flat.abs().view(kind).numpy()
    return found


class Sieve:
    """Finds magnitudes between two bit patterns, block after block, in memory used again.

    >>> import torch
    >>> one, two = (int(patterns(torch.tensor([x]))[0]) for x in (1.0, 2.0))
    >>> Sieve().between([torch.tensor([0.5, -1.0, 4.0])], [one], [two])
    [(1, array([1065353216], dtype=int32), array([1], dtype=int32))]
    """

    def __init__(self) -> None:
        self._room: np.ndarray | None = None

    def between(
        self, blocks: Sequence[Tensor | LazyDelta], lows: Sequence[int], highs: Sequence[int]
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return how many patterns are above `high`, those from `low` to `high`, and their indices.

        For each of several blocks of one length, with its own `low` and `high`. What is returned is
        valid until the next call.
        """
        import numpy as np

        lazy = [each if isinstance(each, LazyDelta) else LazyDelta(each) for each in blocks]
        room = self._room_for(len(lazy), lazy[0].numel())
        counts = kernels.bracket(lazy, lows, [min(high, _HIGHEST_32) for high in highs], room)
        if counts is not None:
            return [
                (above, values[:inside], places[:inside])
                for (above, inside), (values, places) in zip(counts, room, strict=True)
            ]
        found = []
        for block, low, high in zip(blocks, lows, highs, strict=True):
            bits = patterns(block)
            places = np.flatnonzero((bits >= low) & (bits <= high))
            found.append((int(np.count_nonzero(bits > high)), bits[places], places))
        return found

    def _room_for(self, blocks: int, entries: int) -> np.ndarray:
        """Return memory for the patterns and places of all entries: int32 (blocks, 2, more)."""
        import numpy as np

        room = self._room
        if room is None or len(room) < blocks or room.shape[2] <= entries:
            room = self._room = np.empty((blocks, 2, entries + 1), dtype=np.int32)
        return room[:blocks]


def largest(patterns: np.ndarray, wanted: int) -> tuple[int, int | None]:
    """Return the `wanted`-th largest pattern, and its last index kept if not all equals are.

    >>> import numpy as np
    >>> largest(np.array([7, 9, 7, 7], np.int32), 3)
    (7, 2)
    >>> largest(np.array([7, 9, 7, 7], np.int32), 4)
    (7, None)
    """
    import numpy as np

    place = len(patterns) - wanted
    pattern = int(np.partition(patterns, place)[place])
    number = wanted - int(np.count_nonzero(patterns > pattern))
    equals = np.flatnonzero(patterns == pattern)
    return pattern, None if number == len(equals) else int(equals[number - 1])


def from_top(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """Return the bin that holds the `wanted`-th largest, and how many lie in the bins above it."""
    import numpy as np

    totals = np.cumsum(counts[::-1])
    at = int(np.searchsorted(totals, wanted))
    return len(counts) - 1 - at, int(totals[at] - counts[len(counts) - 1 - at])


def index_of(blocks: Blocks, pattern: int, number: int, first: int = 0) -> int:
    """Return the flat index of the `number`-th entry whose magnitude has this bit pattern.

    Counted from index `first` on, where a block begins.
    """
    start, sieve = 0, Sieve()
    for block in blocks():
        if start >= first:
            ((_, _, places),) = sieve.between([block], [pattern], [pattern])
            if number <= len(places):
                return start + int(places[number - 1])
            number -= len(places)
        start += block.numel()
    raise RuntimeError("the blocks changed between two passes")
