"""One command as a process of its own: its wall time, processor time and peak of memory."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from deltakit.errors import DeltakitError

EVERY = 0.004  # seconds between two looks at the memory


@dataclass(frozen=True)
class Process:
    """What one process took, from its start to its end."""

    began: float  # on the monotonic clock, which processes share
    wall: float
    cpu: float  # user and system, of the process and what it waited for
    peak: int  # bytes of anonymous memory: RssAnon at its highest

    @classmethod
    def run(cls, words: Sequence[str | Path]) -> Process:
        """Run a command to its end; raises DeltakitError with what it said when it fails."""
        with TemporaryFile() as said:
            began = time.perf_counter()
            child = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=_environment(),
            )
            peak = _Peak(child.pid)
            try:
                _, status, used = os.wait4(child.pid, 0)
                wall = time.perf_counter() - began
            except BaseException:
                child.kill()
                child.wait()
                raise
            finally:
                peak.stop()
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                said.seek(0)
                raise DeltakitError(
                    f"a command failed with exit code {child.returncode}",
                    where=shlex.join(map(str, words)),
                    got=said.read().decode(errors="replace").strip()[-2000:],
                )
        return cls(began, wall, used.ru_utime + used.ru_stime, peak.bytes)


def _environment() -> dict[str, str]:
    """Return this process's environment, less what makes a program slower than it is for a user."""
    # The number of threads, and compiling each module anew instead of once.
    left_out = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if key not in left_out}


class _Peak:
    """Looks at a process's anonymous memory until told to stop."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            with contextlib.suppress(OSError):  # it has just ended
                for line in self._status.read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        self.bytes = max(self.bytes, int(line.split()[1]) * 1024)
