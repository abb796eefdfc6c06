"""A new file: written under a hidden name, in any order, and named when it is complete."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from deltakit.errors import AlreadyThere
from deltakit.tensors.files import LOCAL, Files

PAGE = 4096  # what direct writes are aligned to, in the file and in memory
_LEAST_DIRECT = 1 << 16  # bytes; less is not worth a trip to the disk of its own


def temporary_name(path: Path, digits: str | None = None) -> Path:
    """Return a hidden name beside `path`, unused unless its 16 digits are given.

    `is_temporary` knows it again.
    """
    # 40 letters of up to 4 bytes and the rest stay below the 255 bytes a name may have.
    return path.with_name(f".{path.name[:40]}.{digits or secrets.token_hex(8)}.tmp")


def is_temporary(path: Path) -> bool:
    return re.fullmatch(r"\..*\.[0-9a-f]{16}\.tmp", path.name, re.DOTALL) is not None


class NewFile:
    """A file of known size, written in any order, that gets its name only when it is complete.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two"
    >>> with NewFile(path, 2) as file:
    ...     file.write(b"b", 1)
    ...     file.write(b"a", 0)
    >>> path.read_bytes()
    b'ab'

    Leaving the `with` block by an exception removes the temporary file. Leaving it normally makes
    the data durable (fsync), renames, and makes the name durable; should that last step fail, the
    error is raised and the file is there, complete. `replace=False` refuses a target that exists.

    Large writes whose place in memory and in the file agree modulo PAGE bytes go to the disk at
    once, past the page cache, where the file system allows it; the others are buffered.
    """

    def __init__(
        self, path: Path, size: int = 0, *, replace: bool = False, files: Files = LOCAL
    ) -> None:
        if not replace and files.exists(path):
            raise AlreadyThere("the file exists already", where=str(path), remedy="name another")
        self.path = path
        self._files = files
        self._replace = replace
        self._temporary = temporary_name(path)
        self._direct: int | None = None
        try:
            self._fd = files.create(self._temporary, size)
            if size >= _LEAST_DIRECT:
                self._direct = files.open_direct(self._temporary)
        except BaseException:
            with contextlib.suppress(OSError):
                files.delete(self._temporary)
            raise

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write `data` at byte `offset`; several threads may write side by side."""
        with self._naming_itself():
            self._write(data, offset)

    @contextlib.contextmanager
    def _naming_itself(self) -> Iterator[None]:
        """Name the file in an error of the system that names none, as one of a full disk."""
        try:
            yield
        except OSError as error:
            if error.filename is None and error.errno is not None:
                error.filename = str(self.path)
            raise

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data).cast("B")
        first = -offset % PAGE
        last = first + (len(view) - first) // PAGE * PAGE
        if last - first < _LEAST_DIRECT or not self._write_direct(view[first:last], offset + first):
            self._files.write(self._fd, view, offset)
            return
        # The pages at both ends are shared with other writes: these go through the page cache.
        for part, at in ((view[:first], offset), (view[last:], offset + last)):
            if part:
                self._files.write(self._fd, part, at)

    def _write_direct(self, view: memoryview, offset: int) -> bool:
        """Write past the page cache, or return False where that cannot be."""
        if self._direct is None or address(view) % PAGE:
            return False
        try:
            self._files.write(self._direct, view, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False  # a file system with a coarser alignment than a page
        return True

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        committed = False
        try:
            try:
                if kind is None:
                    with self._naming_itself():
                        self._files.fsync(self._fd)
            finally:
                self._close()
            if kind is None:
                if not self._replace and self._files.exists(self.path):
                    raise AlreadyThere(
                        "the file appeared while it was written", where=str(self.path)
                    )
                self._files.rename(self._temporary, self.path)
                committed = True
                self._files.sync_folder(self.path.parent)
        finally:
            if not committed:
                with contextlib.suppress(OSError):
                    self._files.delete(self._temporary)

    def _close(self) -> None:
        try:
            if self._direct is not None:
                self._files.close(self._direct)
        finally:
            self._files.close(self._fd)


def address(view: memoryview) -> int:
    """Return where in memory a view of bytes begins."""
    import numpy as np

    return int(np.frombuffer(view, np.uint8).ctypes.data)


def write_whole(path: Path, data: bytes, *, replace: bool = False, files: Files = LOCAL) -> None:
    """Write a small file durably: temporary, fsync, rename, fsync of the folder."""
    with NewFile(path, len(data), replace=replace, files=files) as file:
        file.write(data, 0)
