"""Where a trim cuts."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ALL = 1 << 62  # past the last index of any tensor


@dataclass(frozen=True)
class Cut:
    """Where a trim cuts: all above `threshold` stay, and those equal to it up to index `last`.

    Of equal magnitudes at the threshold the lowest flat indices stay, so that exactly k entries
    are kept, whatever the blocks.
    """

    threshold: float
    last: int

    @classmethod
    def none(cls) -> Cut:
        """Return the cut that keeps everything.

        >>> Cut.none().cuts
        False
        """
        return cls(-1.0, -1)

    @property
    def cuts(self) -> bool:
        return self.threshold >= 0.0

    @classmethod
    def at(cls, pattern: int, nbytes: int, last: int | None) -> Cut:
        """Return the cut at the bit pattern of a float; `last` None keeps all that equal it.

        >>> Cut.at(0x40800000, 4, 7)
        Cut(threshold=4.0, last=7)
        """
        kind = {4: "<f", 8: "<d"}[nbytes]
        threshold = float(struct.unpack(kind, pattern.to_bytes(nbytes, "little"))[0])
        return cls(threshold, _ALL if last is None else last)

    def ties(self, start: int, count: int) -> int:
        """Return how many of `count` entries from index `start` stay if level with the threshold.

        >>> Cut(4.0, last=7).ties(6, 100)
        2
        """
        return min(count, max(0, self.last + 1 - start))

    def keeps(self, flat: Tensor, start: int) -> Tensor:
        """Return which entries of a flat block that begins at index `start` stay: bool (n,)."""
        magnitude = flat.abs()
        ties = magnitude == self.threshold
        ties[self.ties(start, len(flat)) :] = False
        return ties.logical_or_(magnitude > self.threshold)
