"""A file system that records its calls and fails at the one that a test names."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

from deltakit.tensors.files import Files


class FailingFiles(Files):
    """Passes every call on, notes its name, and raises an OSError at call number `fail_at`.

    The call that fails has no effect (`late=False`) or its whole effect (`late=True`).
    """

    def __init__(self, fail_at: int | None = None, *, late: bool = False) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at
        self.late = late
        self._lock = threading.Lock()

    def _call(self, name: str, *args: Any) -> Any:
        with self._lock:
            self.calls.append(name)
            fails = len(self.calls) == self.fail_at
        if fails and not (self.late and name != "close"):
            if name == "close":  # a descriptor is gone even when closing it fails
                super().close(*args)
            raise OSError(errno.EIO, f"call {self.fail_at}, {name}, fails")
        result = getattr(super(), name)(*args)
        if fails:
            raise OSError(errno.EIO, f"call {self.fail_at}, {name}, fails late")
        return result

    def create(self, path: Path, size: int = 0) -> int:
        return self._call("create", path, size)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._call("write", fd, data, offset)

    def fsync(self, fd: int) -> None:
        self._call("fsync", fd)

    def close(self, fd: int) -> None:
        self._call("close", fd)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename", source, target)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder", path)

    def make_folder(self, path: Path) -> None:
        self._call("make_folder", path)

    def delete(self, path: Path) -> None:
        self._call("delete", path)

    def delete_folder(self, path: Path) -> None:
        self._call("delete_folder", path)

    def exists(self, path: Path) -> bool:
        return self._call("exists", path)
