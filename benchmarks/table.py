"""One printed table of scores, at 80 columns, and the same as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

WIDTH = 80
# A row: its name and its scores by task, or a heading alone.
Row = tuple[str, dict[str, float]]


def render(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Return rows of scores with their mean, no wider than 80 columns; a row of no scores heads.

    >>> print(render([("base", {"trec": 46.8, "rt": 62.3})], ["trec", "rt"]))
                                                                  trec     rt   mean
    base                                                          46.8   62.3   54.5
    """
    names = [*tasks, "mean"]
    room = WIDTH - 7 * len(names)
    lines = [" " * room + "".join(f"{name:>7}" for name in names)]
    for label, scores in rows:
        if not scores:
            lines += ["", label]
            continue
        found = [scores[task] for task in tasks]
        lines.append(f"{label:<{room}}" + "".join(f"{x:7.1f}" for x in [*found, fmean(found)]))
    return "\n".join(lines)


def size(count: int) -> str:
    """Return a number of bytes for a reader.

    >>> size(45_400_000), size(1_500)
    ('45.4 MB', '1.5 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def machine() -> str:
    """Return the processor, the cores this process may use, and the versions that matter."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = named[0] if named else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{cpu}, {cores} cores; Python {platform.python_version()}, {versions}"
