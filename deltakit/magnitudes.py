"""Magnitudes as bit patterns: those of IEEE floats order as the floats do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def between(block: Tensor | LazyDelta, low: int, high: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return how many patterns are above `high`, those from `low` to `high`, and their indices."""
    import numpy as np

    lazy = block if isinstance(block, LazyDelta) else LazyDelta(block)
    room = np.empty((2, block.numel() + 1), dtype=np.int32)
    counts = kernels.bracket(lazy, low, min(high, _HIGHEST_32), *room)
    if counts is not None:
        above, inside = counts
        return above, room[0, :inside].copy(), room[1, :inside].copy()
    bits = patterns(block)
    found = np.flatnonzero((bits >= low) & (bits <= high))
    return int(np.count_nonzero(bits > high)), bits[found], found


def from_top(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """Return the bin that holds the `wanted`-th largest, and how many lie in the bins above it."""
    import numpy as np

    totals = np.cumsum(counts[::-1])
    at = int(np.searchsorted(totals, wanted))
    return len(counts) - 1 - at, int(totals[at] - counts[len(counts) - 1 - at])


def index_of(blocks: Blocks, pattern: int, number: int) -> int:
    """Return the flat index of the `number`-th entry whose magnitude has this bit pattern."""
    start = 0
    for block in blocks():
        _, _, places = between(block, pattern, pattern)
        if number <= len(places):
            return start + int(places[number - 1])
        number -= len(places)
        start += block.numel()
    raise RuntimeError("the blocks changed between two passes")
