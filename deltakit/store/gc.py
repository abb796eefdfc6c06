"""Collecting what no task refers to: the only thing in the store that deletes data."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deltakit.errors import BadValue, DeltakitError
from deltakit.store.home import Busy, Home
from deltakit.store.manifest import DATA_NAME
from deltakit.store.tasks import read_task
from deltakit.tensors.new_file import is_temporary

GRACE_SECONDS = 3600.0


@dataclass
class Collected:
    """What gc deleted (or would), and what it left alone, each with its reason."""

    deleted: list[Path] = field(default_factory=list)
    nbytes: int = 0
    waiting: list[Path] = field(default_factory=list)  # within the grace period
    waiting_nbytes: int = 0
    busy: list[str] = field(default_factory=list)  # tasks another process is writing
    unreadable: list[str] = field(default_factory=list)  # tasks whose manifest cannot be read


def collect(
    home: Home, *, grace_seconds: float = GRACE_SECONDS, dry_run: bool = False
) -> Collected:
    """Delete left-over temporary files and data files no revision of a task refers to.

    A file waits until nothing in its folder has changed for `grace_seconds`, so that a reader who
    has just read a manifest still finds the files. A task that another process is writing is
    skipped; so is one whose manifest cannot be read, because what it refers to is not known.
    """
    if not grace_seconds >= 0:
        raise BadValue("the grace period is negative", got=f"{grace_seconds:g} seconds")
    result = Collected()
    with home.commit_lock():
        before = time.time() - grace_seconds
        _sweep(home, result, home.folder, before, dry_run, [])
        _sweep(home, result, home.bases, before, dry_run, [])
        for folder in home.listed(home.tasks):
            if not folder.is_dir() or folder.is_symlink():
                continue
            try:
                # Whoever adds holds this lock from the first byte to the commit.
                with home.task_lock(folder.name, patience=0):
                    _task(home, result, folder, before, dry_run)
            except Busy:
                result.busy.append(folder.name)
    return result


def _task(home: Home, result: Collected, folder: Path, before: float, dry_run: bool) -> None:
    kept: list[str] = []
    try:
        if home.files.exists(folder / "task.json"):
            kept = list(read_task(home, folder.name).manifest.files)
    except (DeltakitError, OSError):
        result.unreadable.append(folder.name)
        return
    _sweep(home, result, folder, before, dry_run, kept)
    if not dry_run:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _sweep(
    home: Home, result: Collected, folder: Path, before: float, dry_run: bool, kept: list[str]
) -> None:
    if not folder.exists():
        return
    changed = folder.stat().st_mtime
    deleted = False
    for path in list(_candidates(home, folder, kept)):
        state = path.lstat()
        if max(state.st_mtime, changed) > before:
            result.waiting.append(path)
            result.waiting_nbytes += state.st_size
            continue
        if not dry_run:
            home.files.delete(path)
            deleted = True
        result.deleted.append(path)
        result.nbytes += state.st_size
    if deleted:
        home.files.sync_folder(folder)


def _candidates(home: Home, folder: Path, kept: list[str]) -> Iterator[Path]:
    for path in home.listed(folder):
        unreferenced = re.match(DATA_NAME, path.name) and path.name not in kept
        if (unreferenced or is_temporary(path)) and (path.is_symlink() or path.is_file()):
            yield path
