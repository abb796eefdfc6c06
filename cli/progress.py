"""How far long work has come: a bar in bytes on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from deltakit_cli.figures import size
from deltakit_cli.output import is_terminal, printable, shorten, silence

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BAR_AFTER = 1.0  # seconds; shorter work shows nothing
LINES_AFTER = 2.0
LINES_EVERY = 5.0
NAME_WIDTH = 28


class Meter:
    """Counts bytes, from any thread, and shows them on stderr while the work goes on."""

    def __init__(
        self, label: str, total: int, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.total = label, total
        self.done = 0
        self._stream, self._clock = stream, clock
        self._bar: Bar | None = None
        self._lines = not is_terminal(stream)
        self._due: float | None = None  # of the first word; counted from the first bytes
        self._lock = threading.Lock()

    def advance(self, name: str, nbytes: int) -> None:
        """Count `nbytes` more, of the tensor `name`."""
        with self._lock:
            self.done += nbytes
            if self._due is None:
                self._due = self._clock() + (LINES_AFTER if self._lines else BAR_AFTER)
            if self._bar is not None:
                self._bar.move(self.done, name)
            elif self._clock() >= self._due:
                self._show(name)

    def _show(self, name: str) -> None:
        try:
            if self._lines:
                self._due = self._clock() + LINES_EVERY
                print(self._line(name), file=self._stream, flush=True)
            else:
                self._bar = Bar(self.label, self.total)
                self._bar.move(self.done, name)
        except OSError:  # nobody reads it any more: the work goes on without
            self._due = float("inf")
            silence(self._stream)

    def _line(self, name: str) -> str:
        share = min(100, 100 * self.done // self.total) if self.total else 100
        return f"{self.label} {share} % {size(self.done)} of {size(self.total)} {printable(name)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._bar is not None:
                try:
                    self._bar.close()
                except OSError:  # the terminal is gone
                    silence(self._stream)
                self._bar = None
            self._due = float("inf")


class Bar:
    """One line at the bottom of the terminal; gone when it is closed."""

    def __init__(self, label: str, total: int) -> None:
        from rich import progress
        from rich.console import Console

        self._progress: Progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(),
            progress.DownloadColumn(),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[tensor]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task: TaskID = self._progress.add_task(label, total=total, tensor="")
        self._progress.start()

    def move(self, done: int, name: str) -> None:
        tensor = shorten(printable(name), NAME_WIDTH)
        self._progress.update(self._task, completed=done, tensor=tensor)

    def close(self) -> None:
        self._progress.stop()


def progress(label: str, total_bytes: int) -> Meter:
    """Return a meter to use in a `with` block, its `advance` from any thread.

    >>> with progress("merge", 2_000_000) as meter:
    ...     meter.advance("layers.0.mlp", 1_000_000)

    Work of under a second or two shows nothing. The bar is gone when the block ends, also by an
    error, so that what is printed next starts on a clean line.
    """
    return Meter(label, total_bytes, sys.stderr)
