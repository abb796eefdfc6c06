"""Entries set apart while others are merged: it is not known yet whether a trim keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit.dtypes import itemsize
from deltakit.stored import Filled

if TYPE_CHECKING:
    import numpy as np

PART = 7  # one entry of so many of a parameter may be set apart
_WIDEST = 4  # bytes of an entry that the kernels take


class Apart:
    """Room for entries whose magnitude, in any of k deltas, is within that delta's range.

    >>> apart = Apart(deltas=2, most=100)
    >>> apart.begin("F32", ["F32", "BF16"], [(1, 5), (2, 9)])
    >>> apart.count, len(apart.base.raw), apart.each[1].dtype
    (0, 0, 'BF16')

    The kernels copy what is stored there: of the base and of each delta, and where it was, in
    ascending order. Ranges are bit patterns, from the lowest to the highest; `above` tells how many
    entries of each delta are higher.
    """

    def __init__(self, deltas: int, most: int) -> None:
        import numpy as np

        self._places = np.empty(most, dtype=np.int32)
        self._memory = [np.empty(most * _WIDEST, dtype=np.uint8) for _ in range(deltas + 2)]
        self.begin("F32", ["F32"] * deltas, [])

    def begin(self, base: str, deltas: Sequence[str], ranges: Sequence[tuple[int, int]]) -> None:
        """Make room for entries of other dtypes, within other ranges."""
        self._dtypes, self.ranges = (base, *deltas), tuple(ranges)
        self.count, self.above = 0, tuple(0 for _ in ranges)

    @property
    def given(self) -> tuple[object, ...]:
        """What the kernels take (`Apart` in native/apart.h)."""
        base, *each = (memory.ctypes.data for memory in self._memory[: len(self._dtypes)])
        return (self.ranges, len(self._places), self._places.ctypes.data, base, tuple(each))

    @property
    def places(self) -> np.ndarray:
        """Where the entries were: int32 (count,)."""
        return self._places[: self.count]

    @property
    def base(self) -> Filled:
        """The base's entries."""
        return self._filled(0)

    @property
    def each(self) -> list[Filled]:
        """What is stored of each delta."""
        return [self._filled(number) for number in range(1, len(self._dtypes))]

    def result(self, dtype: str) -> Filled:
        """Return memory for what becomes of the entries."""
        return Filled(dtype, self._memory[-1][: self.count * itemsize(dtype)])

    def _filled(self, number: int) -> Filled:
        dtype = self._dtypes[number]
        return Filled(dtype, self._memory[number][: self.count * itemsize(dtype)])
