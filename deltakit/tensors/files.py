"""Every call on the file system, in one small object that a test can make fail."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deltakit.errors import AlreadyThere, BadFile, BadValue, InputChanged, NotFound


class FileState(NamedTuple):
    """What identifies the content of a file without reading it."""

    size: int
    mtime_ns: int
    inode: int


class Files:
    """The local file system: read ranges, write at offsets, make durable, rename, list, delete.

    >>> LOCAL.exists(Path("/nowhere"))
    False

    Paths are `pathlib.Path`, offsets and sizes are bytes. All of deltakit's writing goes through
    `create`, `write`, `fsync`, `rename`, `sync_folder`, `make_folder` and `delete`.
    """

    def open(self, path: Path) -> int:
        """Open a regular file for reading; FIFOs, devices and folders are refused."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFound("the file does not exist", where=str(path)) from None
        except OSError as error:
            raise BadFile(f"the file cannot be opened: {error.strerror}", where=str(path)) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise BadFile("not a regular file", where=str(path), expected="a file on disk")
        return fd

    def state(self, fd: int) -> FileState:
        found = os.fstat(fd)
        return FileState(found.st_size, found.st_mtime_ns, found.st_ino)

    def read(self, fd: int, buffer: memoryview, offset: int, where: str = "") -> None:
        """Fill `buffer` from `offset`; a file that ends early has changed since it was opened."""
        done = 0
        while done < len(buffer):
            count = os.preadv(fd, [buffer[done:]], offset + done)
            if count == 0:
                raise InputChanged("the file became shorter while it was read", where=where or None)
            done += count

    def close(self, fd: int) -> None:
        os.close(fd)

    def create(self, path: Path, size: int = 0) -> int:
        """Create a new file of `size` bytes for writing; an existing one is refused."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            folder = str(path.parent)
            raise NotFound("the folder does not exist", where=folder, remedy="make it") from None
        if size:
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError:
                os.close(fd)
                raise
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def delete(self, path: Path) -> None:
        path.unlink()

    def delete_folder(self, path: Path) -> None:
        """Delete a folder and what is in it, without following links."""
        import shutil

        shutil.rmtree(path)

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def list(self, folder: Path) -> list[Path]:
        return sorted(folder.iterdir())


LOCAL = Files()


def read_whole(path: Path, files: Files = LOCAL, most: int = 1 << 30) -> bytes:
    """Return the bytes of a small regular file; one larger than `most` bytes is refused."""
    fd = files.open(path)
    try:
        size = files.state(fd).size
        if size > most:
            raise BadFile(
                "the file is larger than a file of its kind can be",
                where=str(path),
                expected=f"at most {most} bytes",
                got=f"{size} bytes",
            )
        data = bytearray(size)
        files.read(fd, memoryview(data), 0, str(path))
        return bytes(data)
    finally:
        files.close(fd)


def temporary_name(path: Path) -> Path:
    """Return an unused hidden name beside `path`; `is_temporary` knows it again."""
    # 40 letters of up to 4 bytes and the rest stay below the 255 bytes a name may have.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


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
        try:
            self._fd = files.create(self._temporary, size)
        except BaseException:
            with contextlib.suppress(OSError):
                files.delete(self._temporary)
            raise

    def write(self, data: bytes | memoryview, offset: int) -> None:
        self._files.write(self._fd, data, offset)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        committed = False
        try:
            try:
                if kind is None:
                    self._files.fsync(self._fd)
            finally:
                self._files.close(self._fd)
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


def write_whole(path: Path, data: bytes, *, replace: bool = False, files: Files = LOCAL) -> None:
    """Write a small file durably: temporary, fsync, rename, fsync of the folder."""
    with NewFile(path, len(data), replace=replace, files=files) as file:
        file.write(data, 0)


def _check_free(path: Path, replace: bool, files: Files) -> None:
    if not files.exists(path):
        return
    if not replace:
        raise AlreadyThere(
            "the output exists already",
            where=str(path),
            remedy="choose another --out, or pass --overwrite to replace it",
        )
    if path.is_symlink() or not path.is_dir():
        raise BadValue("the output to replace is not a folder", where=str(path))


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False, files: Files = LOCAL) -> Iterator[Path]:
    """Give a temporary sibling of `path` to fill, and rename it to `path` when the block ends well.

    Raises AlreadyThere when `path` exists and `replace` is False, BadValue when it is no folder.
    With `replace`, the old folder is moved aside before the rename and deleted after it, so a
    crash leaves one of the two whole.
    """
    path = Path(os.path.abspath(path))  # "." has no name to put a temporary one beside
    _check_free(path, replace, files)
    files.make_folder(path.parent)
    temporary, old = temporary_name(path), temporary_name(path)
    try:
        files.make_folder(temporary)
        yield temporary
        files.sync_folder(temporary)
        _check_free(path, replace, files)
        if files.exists(path):
            files.rename(path, old)
        files.rename(temporary, path)
        files.sync_folder(path.parent)
    except BaseException:
        if files.exists(old) and not files.exists(path):
            files.rename(old, path)
        with contextlib.suppress(OSError):
            files.delete_folder(temporary)
        raise
    finally:
        if files.exists(old) and files.exists(path):
            files.delete_folder(old)
