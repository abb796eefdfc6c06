"""Bit patterns and where they were found, in memory that a thread uses again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Held:
    """At most so many patterns and where they were found.

    >>> import numpy as np
    >>> held = borrowed(3)
    >>> held.add(np.array([7, 9], np.int32), np.array([0, 5], np.int32), 100)
    True
    >>> held.add(np.array([7, 7], np.int32), np.array([1, 2], np.int32), 200)
    False
    >>> held.values, held.places(7)
    (array([7, 9], dtype=int32), array([100]))
    >>> given_back(held)

    In memory that doubles: an array kept of every block, small and between large ones that are
    freed, would leave the allocator with holes into which no further block fits. And it is used
    again, since the first touch of fresh pages costs more than what is done in them.
    """

    def __init__(self) -> None:
        import numpy as np

        self.most, self.length = 0, 0
        self._values, self._places = np.empty(0, np.int32), np.empty(0, np.int64)

    @property
    def values(self) -> np.ndarray:
        """The patterns, in the order they were found."""
        return self._values[: self.length]

    @property
    def every(self) -> np.ndarray:
        """The index of each."""
        return self._places[: self.length]

    def places(self, pattern: int) -> np.ndarray:
        """Return the indices of one pattern."""
        return self.every[self.values == pattern]

    def add(self, values: np.ndarray, places: np.ndarray, start: int) -> bool:
        """Hold those of a block that begins at `start`; False, and nothing done, if too many."""
        import numpy as np

        first, last = self.length, self.length + len(values)
        if last > self.most:
            return False
        if last > len(self._places) or values.dtype != self._values.dtype:
            room = max(min(2 * last, self.most), len(self._places))
            self._values = _longer(self._values[:first], room, values.dtype)
            self._places = _longer(self._places[:first], room, self._places.dtype)
        self._values[first:last] = values
        np.add(places, start, out=self._places[first:last])
        self.length = last
        return True


class _Own(threading.local):
    """What was given back in this thread."""

    def __init__(self) -> None:
        self.free: list[Held] = []


_own = _Own()


def borrowed(most: int) -> Held:
    """Return room for at most so many patterns, that this thread gave back or new."""
    held = _own.free.pop() if _own.free else Held()
    held.most, held.length = most, 0
    return held


def given_back(held: Held) -> None:
    """Keep what is no longer needed for the next that borrows."""
    _own.free.append(held)


def _longer(values: np.ndarray, length: int, dtype: np.dtype[Any]) -> np.ndarray:
    import numpy as np

    longer = np.empty(length, dtype)
    longer[: len(values)] = values
    return longer
