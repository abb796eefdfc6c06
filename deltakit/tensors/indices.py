"""The indices of a sparse parameter, as bits and counts of any range."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from deltakit.bits import mark
from deltakit.tensors.codec import pack
from deltakit.tensors.runs import CHUNK, Miscounted

if TYPE_CHECKING:
    import numpy as np

_PART = 1 << 20  # indices looked through at a time


class Indices:
    """Ascending indices that tell which of `numel` entries have a value; to be used as Runs is.

    >>> import numpy as np
    >>> stored = np.array([2, 4], dtype=np.uint32)
    >>> indices = Indices(5, 2, lambda first, last: stored[first:last])
    >>> indices.before(3), indices.before(5), indices.bits(1, 5)[0].tolist()
    (1, 2, [10])

    `read(first, last)` gives the indices number first..last, of an integer dtype. All are looked
    through once, on first use. Raises Miscounted where they do not ascend within the parameter.
    """

    def __init__(self, numel: int, count: int, read: Callable[[int, int], np.ndarray]) -> None:
        self._numel, self._count, self._read = numel, count, read
        self._lock = threading.Lock()
        self._table: list[int] | None = None  # those before entry 0, CHUNK, 2 CHUNK, ..., the end

    def bits(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return bytes that hold the bits of entries start..stop, and how many are before them."""
        import numpy as np

        near = self._near(start, stop)
        bits = np.zeros(-(-(stop - start) // 8), dtype=np.uint8)
        if not mark(near, start, stop - start, bits):
            kept = np.zeros(stop - start, dtype=np.bool_)
            indices = near.astype(np.int64)
            kept[indices[(indices >= start) & (indices < stop)] - start] = True
            bits = pack(kept)
        return bits, 0

    def before(self, start: int) -> int:
        """Return how many values stand before entry `start`."""
        if start >= self._numel:
            return self._count_all()[-1]
        before, inside = self._count_all()[start // CHUNK], start % CHUNK
        return before + int(self._near(start - inside, start).searchsorted(start))

    def _near(self, start: int, stop: int) -> np.ndarray:
        """Return the indices of entries start..stop, and some of those before and after."""
        table = self._count_all()
        return self._read(table[start // CHUNK], table[-(-stop // CHUNK)])

    def _count_all(self) -> list[int]:
        with self._lock:
            if self._table is None:
                self._table = self._counted()
            return self._table

    def _counted(self) -> list[int]:
        import numpy as np

        bounds = np.append(np.arange(0, self._numel, CHUNK), self._numel)
        table = np.zeros(len(bounds), dtype=np.int64)
        last = -1
        for at in range(0, self._count, _PART):
            part = self._read(at, min(at + _PART, self._count))
            if self._numel > np.iinfo(part.dtype).max:  # a bound that this dtype cannot hold
                part = part.astype(np.int64)
            if int(part[0]) <= last or (part[1:] <= part[:-1]).any():
                raise Miscounted("the indices are not ascending within the parameter")
            table += part.searchsorted(bounds.astype(part.dtype))  # of one dtype: none is cast
            last = int(part[-1])
        if last >= self._numel:
            raise Miscounted("the indices are not ascending within the parameter")
        return [int(number) for number in table]
