"""The installed `deltakit`, run as a user would, each command shown before it runs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from deltakit.errors import DeltakitError


class Command:
    """Runs `deltakit` in one folder; a command that fails ends the benchmark.

    >>> Command(Path("out/demo"))("ls")                                 # doctest: +SKIP
    $ deltakit ls
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = Path(sys.executable).with_name("deltakit")
        if not self.program.exists():
            raise DeltakitError(
                "the deltakit command is not installed beside this Python",
                where=str(self.program),
                remedy="run `make demo`, or install with: pip install -e .",
            )

    def __call__(self, *words: str, silent: bool = False) -> None:
        """Run one command, its output shown below it; `silent` shows it only if it fails."""
        _show(words)
        done = self._run(words, capture=silent)
        if done.returncode:
            raise DeltakitError(
                "a command of the demo failed",
                where=f"{shlex.join(['deltakit', *words])} (in {self.folder})",
                got=(done.stderr or f"exit code {done.returncode}, see above").strip(),
            )

    def json(self, *words: str) -> Any:
        """Run one command with --json and return what it printed, parsed."""
        words = (*words, "--json")
        _show(words)
        done = self._run(words, capture=True)
        if done.returncode:
            raise DeltakitError(
                "a command of the demo failed", where=shlex.join(words), got=done.stderr.strip()
            )
        return json.loads(done.stdout)

    def _run(self, words: tuple[str, ...], *, capture: bool) -> subprocess.CompletedProcess[str]:
        sys.stdout.flush()
        return subprocess.run(
            [self.program, *words],
            cwd=self.folder,
            capture_output=capture,
            text=True,
            check=False,
        )


def _show(words: tuple[str, ...]) -> None:
    print(f"\n$ deltakit {shlex.join(words)}", flush=True)
