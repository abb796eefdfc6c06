"""Every call on the file system, in one small object that a test can make fail."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from deltakit.errors import BadFile, InputChanged, NotFound


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

    def descriptor(self, fd: int) -> int | None:
        """Return the operating system's descriptor, None where only `read` can read the file."""
        return fd if type(self).read is Files.read else None

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
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, size)
                else:  # macOS
                    os.ftruncate(fd, size)
            except OSError as error:  # of a full disk, most likely
                os.close(fd)
                error.filename = str(path)  # the system names none, as it does for `open`
                raise
        return fd

    def open_direct(self, path: Path) -> int | None:
        """Open a file just created for writes past the page cache; None where that is not had."""
        flag = getattr(os, "O_DIRECT", 0)
        if not flag:
            return None
        try:
            return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flag)
        except OSError:
            return None

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
        """Tell whether there is anything, be it a broken link; raises OSError where none may look.

        What cannot be looked at is not absent: a store would else be sound without it.
        """
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # a NUL names no file
            return False
        return True

    def list(self, folder: Path) -> list[Path]:
        return sorted(folder.iterdir())


LOCAL = Files()
MOST_WHOLE = 1 << 30  # bytes of a file that is read in one piece


def read_whole(path: Path, files: Files = LOCAL, most: int = MOST_WHOLE) -> bytes:
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
