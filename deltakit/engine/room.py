"""Memory for output blocks on their way to the disk."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from deltakit.tensors.new_file import PAGE

if TYPE_CHECKING:
    import numpy as np

ROOMS = 4  # blocks of one thread that may be on their way at once
LARGE_ROOMS = 2  # and of those that are whole parameters
SMALL = 1 << 20  # bytes


class Room:
    """One output block: filled, written by another thread, and filled again when that is done."""

    def __init__(self, nbytes: int) -> None:
        import numpy as np

        self._memory = np.empty(nbytes + 2 * PAGE, dtype=np.uint8)
        self._pending: Future[None] | None = None

    def take(self, nbytes: int, offset: int) -> np.ndarray:
        """Return `nbytes` of memory, uint8, that lie in a page as the file's byte `offset` does.

        Waits for the block before to be written, and raises what that raised.
        """
        if self._pending is not None:
            self._pending.result()
        start = (offset - self._memory.ctypes.data) % PAGE
        return self._memory[start : start + nbytes]

    def hand_over(self, pending: Future[None]) -> None:
        """Keep the memory as it is until `pending` is done."""
        self._pending = pending
