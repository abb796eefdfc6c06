"""The n-th largest magnitude, looked for between two bit patterns in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit.cut import Cut
from deltakit.magnitudes import Blocks, between, from_top, index_of, patterns

if TYPE_CHECKING:
    import numpy as np

MOST_HELD = 1 << 22  # entries held in memory at once
_MOST_PATTERNS = 1 << 20  # that are counted one by one


def guess(sample: Blocks, share: float) -> tuple[int, int]:
    """Return two bit patterns that the `share`-th largest lies between, most probably."""
    import numpy as np

    bits = np.sort(np.concatenate([patterns(block) for block in sample()]))[::-1]
    rank = share * len(bits)
    # Six standard deviations of independent draws: neighbours in a weight matrix are alike.
    spread = 6 * (rank * (1 - share)) ** 0.5 + 16
    first, last = int(rank - spread), int(rank + spread)
    most = np.iinfo(bits.dtype).max
    return int(bits[last]) if last < len(bits) else 0, int(bits[first]) if first >= 0 else int(most)


def cut_between(blocks: Blocks, count: int, low: int, high: int) -> Cut | None:
    """Return the cut that keeps the `count` largest, if its pattern is from `low` to `high`.

    None where it is not, or where what is between cannot be held. Many entries of few patterns, as
    differences of 16-bit floats are, are counted by pattern, and where the last one kept lies is
    looked for in a second pass.
    """
    above, start = 0, 0
    takes_zeros = low == 0  # they are only counted: most of a sparse delta is zeros
    low, high = max(low, 1), max(high, 1)
    inside = _Inside(low, high)
    for block in blocks():
        more, values, places = between(block, low, high)
        above += more
        if above >= count or not inside.take(values, places, start):
            return None
        start += block.numel()
    if above + inside.count >= count:
        return inside.cut(blocks, count - above)
    if not takes_zeros:
        return None
    zeros, wanted = start - above - inside.count, count - above - inside.count
    return Cut.at(0, 4, None if wanted == zeros else index_of(blocks, 0, wanted))


class _Inside:
    """The entries between two patterns: held, or when they are too many counted by pattern."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high, self.count = low, high, 0
        self._nbytes = 4
        self._values: list[np.ndarray] = []
        self._places: list[tuple[int, np.ndarray]] = []  # index of a block, and those in the block
        self._counts: np.ndarray | None = None

    def take(self, values: np.ndarray, places: np.ndarray, start: int) -> bool:
        """Take what lies in a block that begins at index `start`; False where that cannot be."""
        self._nbytes = values.dtype.itemsize
        self.count += len(values)
        self._values.append(values)
        self._places.append((start, places))
        if self.count <= MOST_HELD:
            return True
        if self._high - self._low >= _MOST_PATTERNS:
            return False
        self._let_go()
        return True

    def _let_go(self) -> None:
        import numpy as np

        numbers = np.concatenate(self._values) - self._low
        counts = np.bincount(numbers, minlength=self._high - self._low + 1)
        self._counts = counts if self._counts is None else self._counts + counts
        self._values, self._places = [], []

    def cut(self, blocks: Blocks, wanted: int) -> Cut:
        """Return the cut that keeps the `wanted` largest of them."""
        if self._counts is not None:
            number, above = from_top(self._counts, wanted)
            pattern, level, wanted = self._low + number, self._counts[number], wanted - above
            last = None if wanted == level else index_of(blocks, pattern, wanted)
        else:
            pattern, last = self._held(wanted)
        return Cut.at(pattern, self._nbytes, last)

    def _held(self, wanted: int) -> tuple[int, int | None]:
        """Return the pattern of the `wanted`-th largest, and the last index kept if not all are."""
        import numpy as np

        values = np.concatenate(self._values)
        pattern = int(np.partition(values, len(values) - wanted)[len(values) - wanted])
        level = np.flatnonzero(values == pattern)
        wanted -= int(np.count_nonzero(values > pattern))
        if wanted == len(level):
            return pattern, None
        at = int(level[wanted - 1])
        for start, places in self._places:
            if at < len(places):
                return pattern, start + int(places[at])
            at -= len(places)
        raise AssertionError("fewer places than values")
