"""The deltakit command in a process that notes when its libraries are loaded and when it is done.

    python -P benchmarks/runner.py NOTES [--bare | --torch] [WORDS OF deltakit ...]

Loads deltakit and numpy first, and torch where told, so that what follows is the merge alone;
`--bare` leaves that to the command, as the installed one does. Writes to NOTES, as JSON: the
monotonic clock when the libraries were loaded and when the command was done, the processor time at
the first of these, and whether torch is loaded at the end. Without words it only loads.
"""

import json
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the command and leave the notes."""
    from deltakit_cli import main as command

    command.spare()
    notes, *words = sys.argv[1:]
    how = words.pop(0) if words[:1] in (["--bare"], ["--torch"]) else ""
    if how == "--torch":
        import torch  # noqa: F401
    if how != "--bare":
        import numpy  # noqa: F401

        import deltakit.merging  # noqa: F401
        import deltakit_cli.verbs.merge  # noqa: F401

    ready, cpu, code = time.perf_counter(), time.process_time(), 0
    if words:
        try:
            command.main(words)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    found = {
        "ready": ready,
        "done": time.perf_counter(),
        "start_cpu": cpu,
        "torch": "torch" in sys.modules,
    }
    Path(notes).write_text(json.dumps(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
