"""The bits of a sparse parameter, a run at a time, and how many values stand before an entry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from deltakit.bits import count_bits

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 16  # entries between two remembered counts
_RUN = 32 * CHUNK  # entries whose bits are read or drawn at a time
_REMEMBERED = 8  # runs


class Miscounted(Exception):
    """Bits do not stand for as many values as there are."""


class Runs:
    """Bits that tell which of `numel` entries have a value, counted as they are asked for.

    >>> import numpy as np
    >>> runs = Runs(5, 2, lambda start, stop: np.array([0b10100], dtype=np.uint8))
    >>> runs.before(3), runs.before(5)
    (1, 2)

    `read(start, stop)` gives the bits of a range, packed from its first entry on, a multiple of 8.
    Until all are counted a few runs are remembered, so that threads that are at blocks beside each
    other read them once; afterwards none is. A thread that needs what another is reading reads the
    run after that meanwhile. Raises Miscounted where the bits set are not `count`:
    as soon as they are more, at the end where they are fewer.
    """

    def __init__(self, numel: int, count: int, read: Callable[[int, int], np.ndarray]) -> None:
        self._numel, self._count, self._read = numel, count, read
        self._lock = threading.Condition(threading.Lock())
        self._before: list[int] = [0]  # values before entry 0, CHUNK, 2 CHUNK, ... and at the end
        self._complete = False  # whether all values are counted
        self._runs: dict[int, np.ndarray] = {}
        self._counts: dict[int, list[int]] = {}  # of runs after those that `_before` tells of
        self._reading: set[int] = set()

    def bits(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return bytes that hold the bits of entries start..stop, and how many are before them."""
        import numpy as np

        first, numbers = start - start % 8, range(start // _RUN, -(-stop // _RUN))
        with self._lock:
            runs = [] if self._complete else [self._run(number) for number in numbers]
        if not runs:  # none is remembered, or the range is empty
            return self._read(first, stop), start % 8
        bits = runs[0] if len(runs) == 1 else np.concatenate(runs)
        begin = (first - numbers.start * _RUN) // 8
        return bits[begin : begin + -(-(stop - first) // 8)], start % 8

    def before(self, start: int) -> int:
        """Return how many values stand before entry `start`."""
        import numpy as np

        with self._lock:
            self._count_to(start)
        if start == self._numel:
            return self._count
        before, inside = self._before[start // CHUNK], start % CHUNK
        if inside:
            bits, _ = self.bits(start - inside, start)
            last = np.unpackbits(bits[-1:], count=inside % 8 or 8, bitorder="little")
            before += int(np.bitwise_count(bits[:-1]).sum(dtype=np.int64)) + int(last.sum())
        return before

    def _run(self, number: int) -> np.ndarray:
        """Return a run's bits; the lock is held, and let go while they are read."""
        while number not in self._runs:
            due = (number, number + 1) if (number + 1) * _RUN < self._numel else (number,)
            free = [each for each in due if each not in self._reading and each not in self._runs]
            if not free:
                self._lock.wait()
                continue
            bits = self._fetch(free[0])
            if free[0] == number:
                return bits
        return self._runs[number]

    def _fetch(self, number: int) -> np.ndarray:
        start, stop = number * _RUN, min((number + 1) * _RUN, self._numel)
        self._reading.add(number)
        self._lock.release()
        try:
            bits = self._read(start, stop)
            counts = _counts(bits, stop - start)  # at once: they are still next to the processor
        finally:
            self._lock.acquire()
            self._reading.discard(number)
            self._lock.notify_all()
        if start >= self._counted:
            self._counts[number] = counts
        if not self._complete:
            while len(self._runs) >= _REMEMBERED:
                del self._runs[next(iter(self._runs))]
            self._runs[number] = bits
        return bits

    def _count_to(self, stop: int) -> None:
        """Count the values of all entries up to `stop`, and of the first run at least."""
        if self._complete:
            return
        while self._counted < min(max(stop, 1), self._numel):
            number = self._counted // _RUN
            if number in self._counts:
                before = self._before[-1]
                self._before += [before + count for count in self._counts.pop(number)]
            else:
                self._run(number)
        complete, found = self._counted >= self._numel, self._before[-1]
        if found > self._count or (complete and (found < self._count or self._strays())):
            raise Miscounted(f"{self._count} values stand for {found} kept entries")
        if complete:
            self._complete = True
            self._runs.clear()

    @property
    def _counted(self) -> int:
        """How many entries are counted, rounded up to a whole chunk."""
        return (len(self._before) - 1) * CHUNK

    def _strays(self) -> bool:
        """Tell whether a bit past the last entry is set."""
        past = self._numel % 8
        return past > 0 and bool(self._run((self._numel - 1) // _RUN)[-1] >> past)


def _counts(bits: np.ndarray, numel: int) -> list[int]:
    """Return how many values there are up to the end of each chunk of a run."""
    import numpy as np

    counts = np.empty(-(-numel // CHUNK), dtype=np.int64)
    if not count_bits(bits, numel, CHUNK, counts):
        whole = np.zeros(len(counts) * CHUNK // 8, dtype=np.uint8)  # chunks of the same length
        whole[: len(bits)] = bits
        if numel % 8:  # no bits past the last entry
            whole[len(bits) - 1] &= (1 << numel % 8) - 1
        each = np.bitwise_count(whole.view(np.uint64)).reshape(-1, CHUNK // 64)
        np.cumsum(each.sum(axis=1, dtype=np.int64), out=counts)
    return counts.tolist()
