"""The installed `deltakit`, run as a user would, each command shown before it runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
                remedy="run it with make (see `make help`), or install with: pip install -e .",
            )

    def __call__(self, *words: str, silent: bool = False) -> None:
        """Run one command, its output shown below it; `silent` shows it only if it fails."""
        _show(words)
        done = self._run(words, capture=silent)
        if done.returncode:
            raise DeltakitError(
                "a deltakit command failed",
                where=f"{shlex.join(['deltakit', *words])} (in {self.folder})",
                got=(done.stderr or f"exit code {done.returncode}, see above").strip(),
            )

    def _run(self, words: tuple[str, ...], *, capture: bool) -> subprocess.CompletedProcess[str]:
        sys.stdout.flush()
        return subprocess.run(
            [self.program, *words],
            cwd=self.folder,
            capture_output=capture,
            text=True,
            check=False,
        )


def shown(words: Sequence[str]) -> str:
    r"""Return a command line as a reader can paste it, no wider than 80 columns where it can be.

    >>> print(shown(["merge", "a", "--importance", "x" * 60]))
    deltakit merge a \
        --importance xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
    """
    groups: list[str] = ["deltakit"]  # an option and its value stay on one line
    for word in words:
        if word.startswith("-") or not groups[-1].startswith("-") or " " in groups[-1]:
            groups.append(shlex.quote(word))
        else:
            groups[-1] += f" {shlex.quote(word)}"
    lines = [groups[0]]
    for group in groups[1:]:
        if len(lines[-1]) + len(group) > 75:
            lines.append("    " + group)
        else:
            lines[-1] += f" {group}"
    return " \\\n".join(lines)


def _show(words: Sequence[str]) -> None:
    print(f"\n$ {shown(words)}", flush=True)
