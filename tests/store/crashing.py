"""A file system that dies at one call: killed, or losing power with what was not yet synced."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltakit.tensors.files import Files


class Died(BaseException):
    """The process is no more; no clean-up that follows reaches the disk."""


class DyingFiles(Files):
    """Dies at call number `die_at`, before it has its effect; then `lose_power` may drop more.

    Nothing is really synced: what has been is only remembered, so that `lose_power` can undo
    renames, new names and deletions whose folder was not, and empty files whose data was not.
    """

    def __init__(self, graveyard: Path, die_at: int | None = None) -> None:
        self.calls = 0
        self.die_at = die_at
        self._lock = threading.Lock()
        self._graveyard = graveyard
        self._unsynced: list[tuple[Path, Callable[[], Any]]] = []  # folder, how to undo
        self._dirty: dict[int, Path] = {}  # inode -> name, of files whose data was not synced

    def _call(self) -> None:
        with self._lock:
            self.calls += 1
            dies = self.die_at is not None and self.calls >= self.die_at
        if dies:
            raise Died

    def lose_power(self, *, names: slice | None) -> None:
        """Drop data that was not synced, and those changes of names not synced that `names` picks.

        slice(None) picks all; slice(-1) all but the last, as a disk that reorders writes does.
        """
        for inode, path in self._dirty.items():
            if path.exists() and path.stat().st_ino == inode:
                os.truncate(path, 0)
        if names is not None:
            for _, undo in reversed(self._unsynced[names]):
                undo()
            del self._unsynced[names]

    def _buried(self, path: Path) -> Path:
        grave = self._graveyard / str(len(list(self._graveyard.iterdir())))
        os.link(path, grave)
        return grave

    def create(self, path: Path, size: int = 0) -> int:
        self._call()
        fd = super().create(path, size)
        self._dirty[os.fstat(fd).st_ino] = path
        self._unsynced.append((path.parent, lambda: path.unlink(missing_ok=True)))
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._call()
        super().write(fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._call()
        self._dirty.pop(os.fstat(fd).st_ino, None)

    def rename(self, source: Path, target: Path) -> None:
        self._call()
        old = self._buried(target) if target.is_file() else None
        super().rename(source, target)
        self._dirty = {i: target if p == source else p for i, p in self._dirty.items()}

        def undo() -> None:
            target.rename(source)
            if old is not None:
                os.link(old, target)

        self._unsynced.append((target.parent, undo))

    def sync_folder(self, path: Path) -> None:
        self._call()
        self._unsynced = [entry for entry in self._unsynced if entry[0] != path]

    def make_folder(self, path: Path) -> None:
        self._call()
        missing = [p for p in (path, *path.parents) if not p.exists()]
        super().make_folder(path)
        for made in reversed(missing):
            self._unsynced.append((made.parent, lambda made=made: shutil.rmtree(made)))

    def delete(self, path: Path) -> None:
        self._call()
        old = self._buried(path)
        super().delete(path)
        self._unsynced.append((path.parent, lambda: os.link(old, path)))

    def delete_folder(self, path: Path) -> None:
        self._call()
        super().delete_folder(path)
