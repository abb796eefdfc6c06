"""The n-th largest magnitude, looked for between two bit patterns in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit.cut import Cut
from deltakit.held import borrowed, given_back
from deltakit.magnitudes import Blocks, Sieve, from_top, index_of, largest

if TYPE_CHECKING:
    import numpy as np

MOST_HELD = 1 << 20  # entries held of one tensor, and half as many of each of several
_MOST_PATTERNS = 1 << 20  # that are counted one by one
_FEW_PATTERNS = 1 << 10  # that are counted block by block


def guess(sample: np.ndarray, share: float) -> tuple[int, int, float]:
    """Return two bit patterns that the `share`-th largest lies between, most probably.

    sample: bit patterns of entries from all over, in any order. Also returned is what part of them
    lies there.
    """
    import numpy as np

    bits = np.sort(sample)
    rank = share * len(bits)
    # Six standard deviations of independent draws: neighbours in a weight matrix are alike.
    spread = 6 * (rank * (1 - share)) ** 0.5 + 16
    first, last = len(bits) - 1 - int(rank + spread), len(bits) - 1 - int(rank - spread)
    low = int(bits[first]) if first >= 0 else 0
    high = int(bits[last]) if last < len(bits) else int(np.iinfo(bits.dtype).max)
    # Of its own dtype, or all of it would be copied into another.
    kind = bits.dtype.type
    between = np.searchsorted(bits, kind(high), "right") - np.searchsorted(bits, kind(low))
    return low, high, float(between / len(bits))


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

    What is above is counted, what is between is held, at most `most` entries of it. What comes when
    these are held is counted by pattern: mostly it is many entries of few patterns, as differences
    of 16-bit floats are. Where the last one kept lies among those is looked for in a second pass,
    from the block on that the counts tell.
    """

    def __init__(self, count: int, low: int, high: int, most: int) -> None:
        self._takes_zeros = low == 0  # they are only counted: most of a sparse delta is zeros
        self.low, self.high = max(low, 1), max(high, 1)
        self._wanted, self._above, self._inside, self._numel = count, 0, 0, 0
        self._nbytes = 4
        self._held = borrowed(most)
        self._counts: list[tuple[int, np.ndarray]] = []  # of entries from an index on, by pattern

    def take(self, above: int, values: np.ndarray, places: np.ndarray, numel: int) -> bool:
        """Take what was found `between` in the next block; False where the cut is not there."""
        self._nbytes = values.dtype.itemsize
        self._above += above
        self._inside += len(values)
        holds = not self._counts and self._held.add(values, places, self._numel)
        if self._above >= self._wanted or not (holds or self._counted(values)):
            given_back(self._held)
            return False
        self._numel += numel
        return True

    def _counted(self, values: np.ndarray) -> bool:
        """Count a block's values by pattern; False where there are too many patterns."""
        import numpy as np

        if self.high - self.low >= _MOST_PATTERNS:
            return False
        counts = self._by_pattern(values)
        if self._counts and len(counts) > _FEW_PATTERNS:
            np.add(self._counts[0][1], counts, out=self._counts[0][1])
        else:
            self._counts.append((self._numel, counts))
        return True

    def cut(self, blocks: Blocks) -> Cut | None:
        """Return the cut, once all blocks were taken; None where it is not between."""
        wanted = self._wanted - self._above
        if wanted <= self._inside:
            pattern, last = self._largest(wanted, blocks)
            found = Cut.at(pattern, self._nbytes, last)
        elif self._takes_zeros:
            wanted -= self._inside
            zeros = self._numel - self._above - self._inside
            found = Cut.at(0, 4, None if wanted == zeros else index_of(blocks, 0, wanted))
        else:
            found = None
        given_back(self._held)
        return found

    def _largest(self, wanted: int, blocks: Blocks) -> tuple[int, int | None]:
        """Return the pattern of the `wanted`-th largest, and the last index kept if not all are."""
        held = self._held
        if self.low == self.high:
            pattern, level = self.low, self._inside
        elif not self._counts:
            pattern, last = largest(held.values, wanted)
            return pattern, None if last is None else int(held.every[last])
        else:
            totals = self._by_pattern(held.values) + sum(counts for _, counts in self._counts)
            number, above = from_top(totals, wanted)
            pattern, wanted, level = self.low + number, wanted - above, int(totals[number])
        if wanted == level:
            return pattern, None
        here = held.places(pattern) if self.low < self.high else held.every
        if wanted <= len(here):
            return pattern, int(here[wanted - 1])
        wanted -= len(here)
        for start, counts in self._counts:
            if wanted <= counts[pattern - self.low]:
                return pattern, index_of(blocks, pattern, wanted, start)
            wanted -= int(counts[pattern - self.low])
        raise RuntimeError("more was counted than is there")

    def _by_pattern(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.bincount(values - self.low, minlength=self.high - self.low + 1)
