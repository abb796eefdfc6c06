"""Trimming: keep exactly the k largest magnitudes of something too large to sort."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Called anew for each pass; yields consecutive flat float32 or float64 blocks.
Blocks = Callable[[], Iterable["Tensor"]]

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


def find_cut(blocks: Blocks, count: int) -> Cut:
    """Return the cut that keeps the `count` largest magnitudes, by counting and not by sorting.

    >>> import torch
    >>> find_cut(lambda: [torch.tensor([1.0, -4.0]), torch.tensor([4.0, 0.5])], 1)
    Cut(threshold=4.0, last=1)

    Magnitudes of IEEE floats order as their bit patterns do, so each pass over the blocks counts
    one 16-bit digit of the patterns that share the digits found before: two passes for float32,
    four for float64, and one more where equal magnitudes are split. Memory is one block and
    65536 counters. `count` is at least 1 and at most the number of entries.
    """
    import numpy as np

    prefix, wanted, level, ties = 0, count, 0, 0
    levels = 1
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
        ties = int(counts[digit])
        prefix = prefix << _DIGIT | digit
        level += 1
    last = (1 << 62) if wanted == ties else _index_of_tie(blocks, prefix, wanted)
    kind = np.uint32 if levels == 2 else np.uint64
    real = np.float32 if levels == 2 else np.float64
    return Cut(float(kind(prefix).view(real)), last)


def _bits(block: Tensor) -> np.ndarray:
    """Return the bit patterns of magnitudes, which are never negative as signed integers."""
    import torch

    kind = torch.int64 if block.dtype == torch.float64 else torch.int32
    bits: np.ndarray = block.abs().view(kind).numpy()
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
