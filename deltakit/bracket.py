"""The n-th largest magnitude, looked for between two bit patterns in one pass."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from deltakit.cut import Cut
from deltakit.magnitudes import Blocks, Sieve, from_top, index_of

if TYPE_CHECKING:
    import numpy as np

MOST_HELD = 1 << 20  # entries held of one tensor, and half as many of each of several
_MOST_PATTERNS = 1 << 20  # that are counted one by one

T = TypeVar("T")


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
    bracket, sieve = Bracket(count, low, high, MOST_HELD), Sieve()
    for block in blocks():
        (found,) = sieve.between([block], [bracket.low], [bracket.high])
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
        self._takes_zeros = low == 0  # they are only counted: most of a sparse delta is zeros
        self.low, self.high = max(low, 1), max(high, 1)
        self._wanted, self._above, self._inside, self._numel = count, 0, 0, 0
        self._nbytes = 4
        self._held = _borrowed(most)
        self._counts: np.ndarray | None = None

    def take(self, above: int, values: np.ndarray, places: np.ndarray, numel: int) -> bool:
        """Take what was found `between` in the next block; False where the cut is not there."""
        self._nbytes = values.dtype.itemsize
        self._above += above
        self._inside += len(values)
        if self._above >= self._wanted:
            return self._finish(False)
        if self._counts is not None:
            self._counts += self._counted(values)
        elif not self._held.add(values, places, self._numel):
            if self.high - self.low >= _MOST_PATTERNS:
                return self._finish(False)
            self._counts = self._counted(self._held.values) + self._counted(values)
        self._numel += numel
        return True

    def cut(self, blocks: Blocks) -> Cut | None:
        """Return the cut, once all blocks were taken; None where it is not between."""
        return self._finish(self._found(blocks))

    def _found(self, blocks: Blocks) -> Cut | None:
        wanted = self._wanted - self._above
        if wanted > self._inside:
            if not self._takes_zeros:
                return None
            wanted -= self._inside
            zeros = self._numel - self._above - self._inside
            return Cut.at(0, 4, None if wanted == zeros else index_of(blocks, 0, wanted))
        if self._counts is None:
            pattern, last = self._held.largest(wanted)
        else:
            number, above = from_top(self._counts, wanted)
            pattern, level, wanted = self.low + number, self._counts[number], wanted - above
            last = None if wanted == level else index_of(blocks, pattern, wanted)
        return Cut.at(pattern, self._nbytes, last)

    def _finish(self, found: T) -> T:
        _own.free.append(self._held)
        return found

    def _counted(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.bincount(values - self.low, minlength=self.high - self.low + 1)


class _Held:
    """At most so many patterns and where they were found.

    In memory that doubles and is used again: an array kept of every block, small and between large
    ones that are freed, would leave the allocator with holes into which no further block fits, and
    the first touch of fresh pages costs more than what is done in them.
    """

    def __init__(self) -> None:
        import numpy as np

        self._most, self._length = 0, 0
        self._values, self._places = np.empty(0, np.int32), np.empty(0, np.int64)

    def cleared(self, most: int) -> Self:
        """Forget all, and hold at most so many from now on."""
        self._most, self._length = most, 0
        return self

    @property
    def values(self) -> np.ndarray:
        return self._values[: self._length]

    def add(self, values: np.ndarray, places: np.ndarray, start: int) -> bool:
        """Hold those of a block that begins at `start`; False, and nothing done, if too many."""
        import numpy as np

        first, last = self._length, self._length + len(values)
        if last > self._most:
            return False
        if last > len(self._places) or values.dtype != self._values.dtype:
            room = max(2 * last, len(self._places))
            self._values = _longer(self._values[:first], room, values.dtype)
            self._places = _longer(self._places[:first], room, self._places.dtype)
        self._values[first:last] = values
        np.add(places, start, out=self._places[first:last])
        self._length = last
        return True

    def largest(self, wanted: int) -> tuple[int, int | None]:
        """Return the pattern of the `wanted`-th largest, and the last index kept if not all are."""
        import numpy as np

        values = self.values
        pattern = int(np.partition(values, len(values) - wanted)[len(values) - wanted])
        level = np.flatnonzero(values == pattern)
        wanted -= int(np.count_nonzero(values > pattern))
        return pattern, None if wanted == len(level) else int(self._places[level[wanted - 1]])


class _Own(threading.local):
    """What brackets of this thread held their findings in, for those to come."""

    def __init__(self) -> None:
        self.free: list[_Held] = []


_own = _Own()


def _borrowed(most: int) -> _Held:
    return (_own.free.pop() if _own.free else _Held()).cleared(most)


def _longer(values: np.ndarray, length: int, dtype: np.dtype[Any]) -> np.ndarray:
    import numpy as np

    longer = np.empty(length, dtype)
    longer[: len(values)] = values
    return longer
