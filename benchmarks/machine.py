"""What a measurement depends on: the machine, the versions, the commit."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.table import WIDTH


def machine(*packages: str) -> str:
    """Return the processor, the cores this process may use, and the versions of packages."""
    cpu = platform.processor() or platform.machine()
    cpu = _field("/proc/cpuinfo", "model name") or cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{cpu}, {cores} cores; Python {platform.python_version()}, {versions}"


def header(module: str, words: Sequence[str], cache: Path) -> str:
    """Return the command and what its figures depend on, in lines of 80 columns."""
    today = datetime.datetime.now().astimezone().date().isoformat()
    here = f"{machine('torch', 'deltakit-merge')}, commit {commit()}; {memory()}, {disk(cache)}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    # Where the figures went says nothing about them.
    places = ("--json", "--write", "--cache")
    pairs = zip(words, ["", *words], strict=False)
    kept = [w for w, before in pairs if not w.startswith(places) and before not in places]
    shown = " ".join([f"python -m benchmarks.{module}", *kept])
    return f"{shown}\n{textwrap.fill(f'{today}; {here}; {load}', WIDTH)}"


def memory() -> str:
    """Return the size of the memory.

    >>> memory()                                                        # doctest: +SKIP
    '24 GB of memory'
    """
    return f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) * 1024 / 1e9:.0f} GB of memory"


def disk(path: Path) -> str:
    """Return the file system that holds a path, its device, and what is known of that.

    >>> disk(Path("/home"))                                             # doctest: +SKIP
    'ext4 on sda1, a spinning disk'
    """
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            kind, name = after.split()[:2]
            return f"{kind} on {Path(name).name}{_kind(Path(name).name)}"
    return "a disk of unknown kind"


def _kind(device: str) -> str:
    if device.startswith(("vd", "xvd")):  # what it says of itself is not what is below it
        return ", a virtual disk"
    at = Path("/sys/class/block", device).resolve()
    found = [path for path in (at, at.parent) if (path / "queue/rotational").exists()]
    kinds = {"0": ", solid state", "1": ", a spinning disk"}
    return kinds.get((found[0] / "queue/rotational").read_text().strip(), "") if found else ""


def commit() -> str:
    """Return the commit of the working tree, marked when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    root = Path(__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _field(path: str, name: str) -> str:
    """Return the first value of a field in a file of `name: value` lines, or ""."""
    if not Path(path).exists():
        return ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return ""
