"""Trimming: keep exactly the k largest magnitudes of something too large to sort."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.lazy import LazyDelta

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Called anew for each pass; yields consecutive flat float32 or float64 blocks.
Blocks = Callable[[], Iterable["Tensor | LazyDelta"]]

MOST_HELD = 1 << 22  # entries held in memory at once
_FEW = 1 << 18  # entries that are partitioned without more ado
_ALL = 1 << 62  # past the last index of any tensor
_DIGIT = 16
_BINS = 1 << _DIGIT


@dataclass(frozen=True)
class Cut:
    """Where a trim cuts: all above `threshold` stay, and those equal to it up to index `last`.

    Of equal magnitudes at the threshold the lowest flat indices stay, so that exactly k entries
    are kept, whatever the blocks.
    """

    threshold: float
    last: int

    def keeps(self, flat: Tensor, start: int) -> Tensor:
        """Return which entries of a flat block that begins at index `start` stay: bool (n,)."""
        magnitude = flat.abs()
        ties = magnitude == self.threshold
        ties[max(0, self.last + 1 - start) :] = False
        return ties.logical_or_(magnitude > self.threshold)


def find_cut(
    blocks: Blocks, count: int, numel: int | None = None, sample: Blocks | None = None
) -> Cut:
    """Return the cut that keeps the `count` largest magnitudes, without sorting.

    >>> import torch
    >>> find_cut(lambda: [torch.tensor([1.0, -4.0]), torch.tensor([4.0, 0.5])], 1)
    Cut(threshold=4.0, last=1)

    Magnitudes of IEEE floats order as their bit patterns do. A `sample` of the `numel` entries
    tells between which two patterns the cut lies in all likelihood: one pass over the blocks counts
    what is above and gathers what is between, and the cut is found among these. Where the sample
    misled, or there is none: up to 4 Mi entries are held and partitioned; of more, a pass counts
    the first 16-bit digit of the patterns, and another gathers the entries that share the digit
    where the cut falls; where these too are more than 4 Mi, further digits are counted, and at last
    the index of a tie is looked for. All ways give the same cut. `count` is at least 1 and at most
    the number of entries.
    """
    if sample is not None and numel is not None and numel > _FEW:
        low, high = _bracket(sample, count / numel)
        found = _bracketed_cut(blocks, count, low, high)
        if found is not None:
            return found
    held = _held(blocks)
    return _counted_cut(blocks, count) if held is None else _held_cut(held, count)


def _bracket(sample: Blocks, share: float) -> tuple[int, int]:
    """Return two bit patterns that the `share`-th largest lies between, most probably."""
    import numpy as np

    bits = np.sort(np.concatenate([_bits(block) for block in sample()]))[::-1]
    rank = share * len(bits)
    # Six standard deviations of independent draws: neighbours in a weight matrix are alike.
    spread = 6 * (rank * (1 - share)) ** 0.5 + 16
    first, last = int(rank - spread), int(rank + spread)
    most = np.iinfo(bits.dtype).max
    return int(bits[last]) if last < len(bits) else 0, int(bits[first]) if first >= 0 else int(most)


def _bracketed_cut(blocks: Blocks, count: int, low: int, high: int) -> Cut | None:
    """Return the cut if its pattern is from `low` to `high`, and what is between can be held."""
    above, inside, start = 0, 0, 0
    parts, places = [], []
    for block in blocks():
        more, values, found = _between(block, low, high)
        above += more
        inside += len(found)
        parts.append(values)
        places.append(found + start)
        if above >= count or inside > MOST_HELD:
            return None
        start += block.numel()
    return _gathered_cut(parts, places, count - above) if above + inside >= count else None


def _between(block: Tensor | LazyDelta, low: int, high: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return how many patterns are above `high`, those from `low` to `high`, and their indices."""
    import numpy as np

    lazy = block if isinstance(block, LazyDelta) else LazyDelta(block)
    room = np.empty((2, block.numel() + 1), dtype=np.int32)
    counts = kernels.bracket(lazy, low, high, *room)
    if counts is not None:
        above, inside = counts
        return above, room[0, :inside].copy(), room[1, :inside].astype(np.int64)
    bits = _bits(block)
    found = np.flatnonzero((bits >= low) & (bits <= high))
    return int(np.count_nonzero(bits > high)), bits[found], found


def _gathered_cut(parts: list[np.ndarray], places: list[np.ndarray], wanted: int) -> Cut:
    """Return the cut that keeps `wanted` of the patterns in `parts`, which lie at `places`."""
    import numpy as np

    cut = _held_cut(np.concatenate(parts), wanted)
    if cut.last == _ALL:
        return cut
    return Cut(cut.threshold, int(np.concatenate(places)[cut.last]))


def _held(blocks: Blocks) -> np.ndarray | None:
    """Return all bit patterns, or None where they are too many to hold."""
    import numpy as np

    parts, numel = [], 0
    for block in blocks():
        numel += block.numel()
        if numel > MOST_HELD:
            return None
        parts.append(_bits(block))
    return np.concatenate(parts)


def _held_cut(bits: np.ndarray, count: int) -> Cut:
    import numpy as np

    pattern = np.partition(bits, len(bits) - count)[len(bits) - count]
    ties = np.flatnonzero(bits == pattern)
    wanted = count - int(np.count_nonzero(bits > pattern))
    last = _ALL if wanted == len(ties) else int(ties[wanted - 1])
    return Cut(_magnitude(int(pattern), bits.dtype.itemsize), last)


def _counted_cut(blocks: Blocks, count: int) -> Cut:
    import numpy as np

    prefix, wanted, level, levels = 0, count, 0, 1
    while level < levels:
        counts = np.zeros(_BINS, dtype=np.int64)
        for block in blocks():
            bits = _bits(block)
            levels = bits.dtype.itemsize * 8 // _DIGIT
            shift = (levels - 1 - level) * _DIGIT
            if level:
                bits = bits[bits >> (shift + _DIGIT) == prefix]
            counts += np.bincount((bits >> shift) & (_BINS - 1), minlength=_BINS)
        digit, above = _digit_from_top(counts, wanted)
        wanted -= above
        prefix = prefix << _DIGIT | digit
        level += 1
        if counts[digit] <= MOST_HELD:
            return _gathered_cut(*_gather(blocks, prefix, shift), wanted)
    last = _ALL if wanted == counts[digit] else _index_of_tie(blocks, prefix, wanted)
    return Cut(_magnitude(prefix, levels * _DIGIT // 8), last)


def _gather(blocks: Blocks, prefix: int, shift: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the patterns that begin with `prefix`, and their places, block by block."""
    import numpy as np

    parts, places, start = [], [], 0
    for block in blocks():
        bits = _bits(block)
        found = np.flatnonzero(bits >> shift == prefix)
        parts.append(bits[found])
        places.append(found + start)
        start += block.numel()
    return parts, places


def _magnitude(pattern: int, nbytes: int) -> float:
    """Return the float whose bit pattern this is."""
    return float(struct.unpack({4: "<f", 8: "<d"}[nbytes], pattern.to_bytes(nbytes, "little"))[0])


def _bits(block: Tensor | LazyDelta) -> np.ndarray:
    """Return the bit patterns of magnitudes, which are never negative as signed integers."""
    import torch

    flat = block.tensor if isinstance(block, LazyDelta) else block
    kind = torch.int64 if flat.dtype == torch.float64 else torch.int32
    bits: np.ndarray = flat.abs().view(kind).numpy()
    return bits


def _digit_from_top(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """Return the digit that holds the `wanted`-th largest, and how many lie above that digit."""
    import numpy as np

    from_top = np.cumsum(counts[::-1])
    at = int(np.searchsorted(from_top, wanted))
    return _BINS - 1 - at, int(from_top[at] - counts[_BINS - 1 - at])


def _index_of_tie(blocks: Blocks, pattern: int, number: int) -> int:
    """Return the flat index of the `number`-th entry whose magnitude has this bit pattern."""
    import numpy as np

    start = 0
    for block in blocks():
        found = np.flatnonzero(_bits(block) == pattern)
        if number <= len(found):
            return start + int(found[number - 1])
        number -= len(found)
        start += block.numel()
    raise RuntimeError("the blocks changed between two passes")
