"""Running the command as a user does, and making a terminal for it to write to."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

RUN = [sys.executable, "-c", "from deltakit_cli.main import main; main()"]


def deltakit(*args: str | Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its streams piped."""
    return subprocess.run(
        [*RUN, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def on_terminal(*args: str | Path, cwd: Path, columns: int = 80) -> str:
    """Run a command on a terminal of its own; return all that appeared there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [*RUN, *map(str, args)],
        cwd=cwd,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")
