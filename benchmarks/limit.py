"""The limit of a merge: reading its inputs once, warm, and making one output durable."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from deltakit.tensors.files import LOCAL

CHUNK = 8 << 20
THREADS = 2
ALIGNMENT = 4096
Chunk = tuple[Path, int, int]  # a file, a start and a size


@dataclass(frozen=True)
class Limit:
    """Seconds of one measurement: every way that was tried, and the fastest of each kind."""

    reads: dict[str, float]
    writes: dict[str, float]

    @property
    def seconds(self) -> float:
        """The fastest reading and the fastest writing, one after the other."""
        return min(self.reads.values()) + min(self.writes.values())

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {**asdict(self), "seconds": self.seconds}


def measure(inputs: Sequence[Path], size: int, folder: Path) -> Limit:
    """Read `inputs` from the page cache and write a file of `size` bytes below `folder`, durably.

    Nothing is computed, and one buffer a thread is reused. Both are done by one thread and by
    two; writing through the page cache and, where the file system has it, past it (O_DIRECT).
    """
    reads = {f"{n} threads": read(inputs, n) for n in (1, THREADS)}
    writes = {}
    for way, flags in (("cached", 0), ("direct", os.O_DIRECT)):
        for threads in (1, THREADS):
            seconds = _write(folder / "limit", size, threads, flags)
            if seconds is not None:
                writes[f"{way}, {threads} threads"] = seconds
    return Limit(reads, writes)


def read(paths: Sequence[Path], threads: int = THREADS) -> float:
    """Return the seconds of reading files once."""
    shares = _shares([(path, path.stat().st_size) for path in paths], threads)
    return _timed(_read, shares)


def _read(chunks: Sequence[Chunk], buffer: memoryview) -> None:
    for path, start, size in chunks:
        fd = os.open(path, os.O_RDONLY)
        try:
            done = 0
            while done < size and (count := os.preadv(fd, [buffer[: size - done]], start + done)):
                done += count
        finally:
            os.close(fd)


def _write(path: Path, size: int, threads: int, flags: int) -> float | None:
    """Return the seconds of writing a new file durably, or None where `flags` are not to be had."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags)
    except OSError:  # no O_DIRECT here
        path.unlink(missing_ok=True)
        return None

    def write(chunks: Sequence[Chunk], buffer: memoryview) -> None:
        for _, start, count in chunks:
            done = 0
            while done < count:
                done += os.pwrite(fd, buffer[done:count], start + done)

    size = -(-size // ALIGNMENT) * ALIGNMENT
    try:
        began = time.perf_counter()
        os.posix_fallocate(fd, 0, size)
        ready = time.perf_counter() - began
        return ready + _timed(write, _shares([(path, size)], threads), lambda: os.fsync(fd))
    finally:
        os.close(fd)
        path.unlink()
        LOCAL.sync_folder(path.parent)  # freeing it must not burden the next measurement


def _shares(files: Sequence[tuple[Path, int]], threads: int) -> list[list[Chunk]]:
    """Deal the chunks of files to threads, a run of chunks to each."""
    chunks = [
        (path, start, min(CHUNK, size - start))
        for path, size in files
        for start in range(0, size, CHUNK)
    ]
    each = -(-len(chunks) // threads)
    return [chunks[i * each : (i + 1) * each] for i in range(threads)]


def _timed(
    work: Callable[[Sequence[Chunk], memoryview], None],
    shares: Sequence[Sequence[Chunk]],
    finish: Callable[[], object] = lambda: None,
) -> float:
    """Return the seconds of doing each share in a thread of its own with a buffer of its own."""
    buffers = [memoryview(mmap.mmap(-1, CHUNK)) for _ in shares]  # aligned, as O_DIRECT needs it
    for buffer in buffers:
        buffer[:] = os.urandom(1 << 20) * (CHUNK >> 20)
    with ThreadPoolExecutor(len(shares)) as pool:
        began = time.perf_counter()
        list(pool.map(work, shares, buffers))
        finish()
        return time.perf_counter() - began
