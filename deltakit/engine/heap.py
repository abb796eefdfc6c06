"""Giving what was freed back to the system.

Torch asks for aligned memory. glibc before 2.38 does not find the hole that such a block left once
something small was put beside it (its bug 14581), so that the heap of a thread that makes many
temporaries grows by one hole after another. The pages of these holes can be given back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import count

EVERY = 16  # pieces of work: the pages in use are touched again, which takes a millisecond


class Heap:
    """Counts what threads do, and gives back what they freed now and then."""

    def __init__(self) -> None:
        self._trim = _trim()
        self._done = count(1)

    def work_done(self) -> None:
        """Give back, after a few pieces of work; nothing where the C library has no way to."""
        if self._trim and next(self._done) % EVERY == 0:
            self._trim(0)


def _trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None
    found.argtypes = [ctypes.c_size_t]
    return found
