"""A few threads that share one list of work, and stop together; and how many there are."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")

MOST = 4  # where nothing is said: more mostly wait for the disk or for memory


def usual_threads() -> int:
    """Return how many threads are used where nothing is said: those of the processors, or MOST."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST, len(os.sched_getaffinity(0)))  # those that this process may use
    return min(MOST, os.cpu_count() or 1)


def run_all(do: Callable[[T], None], work: Iterator[T], threads: int) -> None:
    """Do every item of `work` with `threads` threads; an error stops all.

    Of several errors that of the first item is raised, as one thread alone would: items are begun
    in order, so that all before one that fails are done, or fail themselves.
    """
    lock, stop = threading.Lock(), threading.Event()
    numbered, failed = enumerate(work), dict[int, BaseException]()

    def loop() -> None:
        while not stop.is_set():
            with lock:
                number, item = next(numbered, (0, None))
            if item is None:
                return
            try:
                do(item)
            except BaseException as error:  # noqa: BLE001  raised below
                stop.set()
                failed[number] = error
                return

    with ThreadPoolExecutor(threads, thread_name_prefix="deltakit") as pool:
        try:
            futures = [pool.submit(loop) for _ in range(threads)]
            wait(futures)
        except BaseException:  # Ctrl-C arrives here, in the main thread
            stop.set()
            raise
    if failed:
        raise failed[min(failed)]
    for future in futures:  # where the list of work itself fails
        future.result()


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let each of our threads compute on its own: torch's pool on top of them only gets in the way.

    Blocks are small, so that two threads of ours beat torch's own threading many times over. Where
    torch is not loaded, it is not loaded for that.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
