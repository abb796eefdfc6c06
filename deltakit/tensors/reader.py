"""One safetensors file, read by ranges."""

from __future__ import annotations

import weakref
from pathlib import Path

from deltakit.errors import BadFile, DeltakitError, InputChanged
from deltakit.tensors import header
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import MOST_HEADER_BYTES, Header

PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


def refuse_pickle(path: Path) -> None:
    """Refuse a file whose name says that reading it would run code."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise BadFile(
            f"{path.suffix} files are pickles, which can run code when they are read",
            where=str(path),
            expected="a .safetensors file",
            remedy="convert it: in transformers, AutoModel.from_pretrained(folder)"
            ".save_pretrained(new_folder) writes safetensors",
        )


class SafetensorsFile:
    """A safetensors file: its header, checked strictly, and byte ranges of its tensors.

    `read` fills a buffer with pread, so a file truncated by someone else is an error and not a
    crash. Raises BadFile (with the path) for everything `header.parse` refuses, NotFound for a
    missing file, InputChanged when the file was changed after it was opened.
    """

    def __init__(self, path: Path, files: Files = LOCAL) -> None:
        self.path = path
        self._files = files
        refuse_pickle(path)
        self._fd = files.open(path)
        self._close = weakref.finalize(self, files.close, self._fd)
        try:
            self.state = files.state(self._fd)
            self.header = self._read_header()
        except DeltakitError as error:
            self._close()
            raise error.at(str(path)) from None
        except BaseException:
            self._close()
            raise

    def _read_header(self) -> Header:
        size = self.state.size
        if size < 10:
            raise BadFile("not a safetensors file: too short", got=f"{size} bytes")
        first = bytearray(9)
        self._files.read(self._fd, memoryview(first), 0)
        # The lengths of some true headers begin as pickles do (640 is 80 02): hence the brace.
        if first[8:] != b"{" and first.startswith(PICKLE_MAGIC):
            raise BadFile(
                "this is a pickle (a torch.save file), which can run code when it is read",
                expected="a safetensors file",
                remedy="convert it with save_pretrained of transformers",
            )
        length = int.from_bytes(first[:8], "little")
        if not 0 < length <= min(MOST_HEADER_BYTES, size - 8):
            raise BadFile(
                "not a safetensors file, or a truncated one: impossible header length",
                expected=f"1 to {min(MOST_HEADER_BYTES, size - 8)} bytes",
                got=f"{length} bytes",
            )
        raw = bytearray(length)
        self._files.read(self._fd, memoryview(raw), 8)
        return header.parse(bytes(raw), size)

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of tensor `name` from its byte `start`."""
        self._check_open()
        nbytes = self.header.infos[name].nbytes
        if start < 0 or start + len(buffer) > nbytes:
            raise IndexError(f"bytes {start}..{start + len(buffer)} of {name!r}, it has {nbytes}")
        self._files.read(self._fd, buffer, self.header.offsets[name] + start, str(self.path))

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        """Return a descriptor, and where in the file byte `start` of a tensor lies.

        None for files that only `read` can read.
        """
        self._check_open()
        fd = self._files.descriptor(self._fd)
        return None if fd is None else (fd, self.header.offsets[name] + start)

    def _check_open(self) -> None:
        if not self._close.alive:  # its descriptor may be another file's by now
            raise ValueError(f"{self.path} is closed")

    def prefix(self) -> bytes:
        """Return the file's first bytes, length and header, verbatim."""
        raw = bytearray(self.header.data_start)
        self._files.read(self._fd, memoryview(raw), 0, str(self.path))
        return bytes(raw)

    def check_unchanged(self) -> None:
        """Raise InputChanged when size, time or identity are not what they were at opening."""
        if self._files.state(self._fd) != self.state:
            raise InputChanged(
                "the file changed while it was read",
                where=str(self.path),
                remedy="run the command again when nothing writes to it",
            )

    def close(self) -> None:
        self._close()
