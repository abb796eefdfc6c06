"""The n-th largest magnitude, looked for between two bit patterns in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit.cut import Cut
from deltakit.magnitudes import Blocks, between, from_top, index_of

if TYPE_CHECKING:
    import numpy as np

MOST_HELD = 1 << 20  # entries held in memory at once
_MOST_PATTERNS = 1 << 20  # that are counted one by one


def guess(sample: Sequence[np.ndarray], share: float) -> tuple[int, int]:
    """Return two bit patterns that the `share`-th largest lies between, most probably.

    sample: bit patterns of entries from all over, in any order.
    """
    import numpy as np

    bits = np.sort(np.concatenate(sample))[::-1]
    rank = share * len(bits)
    # Six standard deviations of independent draws: neighbours in a weight matrix are alike.
    spread = 6 * (rank * (1 - share)) ** 0.5 + 16
    first, last = int(rank - spread), int(rank + spread)
    most = np.iinfo(bits.dtype).max
    return int(bits[last]) if last < len(bits) else 0, int(bits[first]) if first >= 0 else int(most)


def cut_between(blocks: Blocks, count: int, low: int, high: int) -> Cut | None:
    """Return the cut that keeps the `count` largest, if its pattern is from `low` to `high`.

    None where it is not, or where what is between cannot be held.
    """
    bracket = Bracket(count, low, high, MOST_HELD)
    for block in blocks():
        (found,) = between([block], [bracket.low], [bracket.high])
        if not bracket.take(*found, block.numel()):
            return None
    return bracket.cut(blocks)


class Bracket:
    """The cut that keeps the `count` largest, looked for from pattern `low` to pattern `high`.

    What is above is counted, what is between is held. Many entries of few patterns, as differences
    of 16-bit floats are, are counted by pattern, and where the last one kept lies is looked for in
    a second pass. At most `most` entries are held.
    """

    def __init__(self, count: int, low: int, high: int, most: int) -> None:
        self._most = most
        self._takes_zeros = low == 0  # they are only counted: most of a sparse delta is zeros
        self.low, self.high = max(low, 1), max(high, 1)
        self._wanted, self._above, self._inside, self._numel = count, 0, 0, 0
        self._nbytes = 4
        self._values: list[np.ndarray] = []
        self._places: list[tuple[int, np.ndarray]] = []  # index of a block, and those in the block
        self._counts: np.ndarray | None = None

    def take(self, above: int, values: np.ndarray, places: np.ndarray, numel: int) -> bool:
        """Take what was found `between` in the next block; False where the cut is not there."""
        self._nbytes = values.dtype.itemsize
        self._above += above
        self._inside += len(values)
        self._values.append(values)
        self._places.append((self._numel, places))
        self._numel += numel
        if self._above >= self._wanted:
            return False
        if self._inside > self._most:
            if self.high - self.low >= _MOST_PATTERNS:
                return False
            self._let_go()
        return True

    def cut(self, blocks: Blocks) -> Cut | None:
        """Return the cut, once all blocks were taken; None where it is not between."""
        wanted = self._wanted - self._above
        if wanted > self._inside:
            if not self._takes_zeros:
                return None
            wanted -= self._inside
            zeros = self._numel - self._above - self._inside
            return Cut.at(0, 4, None if wanted == zeros else index_of(blocks, 0, wanted))
        if self._counts is not None:
            number, above = from_top(self._counts, wanted)
            pattern, level, wanted = self.low + number, self._counts[number], wanted - above
            last = None if wanted == level else index_of(blocks, pattern, wanted)
        else:
            pattern, last = self._held(wanted)
        return Cut.at(pattern, self._nbytes, last)

    def _let_go(self) -> None:
        import numpy as np

        numbers = np.concatenate(self._values) - self.low
        counts = np.bincount(numbers, minlength=self.high - self.low + 1)
        self._counts = counts if self._counts is None else self._counts + counts
        self._values, self._places = [], []

    def _held(self, wanted: int) -> tuple[int, int | None]:
        """Return the pattern of the `wanted`-th largest, and the last index kept if not all are."""
        import numpy as np

        if self.low == self.high:
            pattern, at, level = self.low, wanted - 1, self._inside
        else:
            values = np.concatenate(self._values)
            pattern = int(np.partition(values, len(values) - wanted)[len(values) - wanted])
            places = np.flatnonzero(values == pattern)
            wanted -= int(np.count_nonzero(values > pattern))
            at, level = int(places[wanted - 1]), len(places)
        if wanted == level:
            return pattern, None
        for start, places in self._places:
            if at < len(places):
                return pattern, start + int(places[at])
            at -= len(places)
        raise AssertionError("fewer places than values")
