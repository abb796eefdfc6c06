"""What is wrong with one stored file, down to the tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltakit.errors import DeltakitError
from deltakit.store.manifest import StoredFile
from deltakit.tensors import header
from deltakit.tensors.digest import file_digest, tensor_digest
from deltakit.tensors.files import LOCAL, Files


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was stored: where, which tensor if one is to blame, and what."""

    path: Path
    tensor: str | None
    fact: str

    def __str__(self) -> str:
        return f"{self.path}: " + (f"tensor {self.tensor!r}: " if self.tensor else "") + self.fact


def found(path: Path, error: DeltakitError | OSError) -> Finding:
    """Return what an error says of a file."""
    if not isinstance(error, DeltakitError):
        return Finding(path, None, error.strerror or str(error))
    differs = f" (expected {error.expected}, got {error.got})" if error.expected else ""
    return Finding(path, None, error.fact + differs)


def damage(
    path: Path, stored: StoredFile, read_data: bool, files: Files = LOCAL
) -> Iterator[Finding]:
    """Compare a file with what its manifest says: its size, and with `read_data` every byte."""
    try:
        if not files.exists(path):
            yield Finding(path, None, "the file is missing")
            return
        if read_data:
            size, digest = file_digest(path, files)
        else:
            size, digest = path.stat().st_size, stored.blake3
        if size != stored.size:
            yield Finding(path, None, f"expected {stored.size} bytes, got {size}")
        elif digest != stored.blake3:
            yield Finding(path, None, f"expected blake3 {stored.blake3[:16]}, got {digest[:16]}")
        else:
            return
        if read_data:
            yield from _tensors(path, stored, files)
    except (DeltakitError, OSError) as error:
        yield found(path, error)


def _tensors(path: Path, stored: StoredFile, files: Files) -> Iterator[Finding]:
    """Name the tensors of a bad file whose bytes are not what they were."""
    fd = files.open(path)
    try:
        try:
            table = _header(fd, stored.size, files)
        except DeltakitError as error:
            yield Finding(path, None, f"the header is damaged: {error.fact}")
            for name in stored.tensors:
                yield Finding(path, name, "cannot be found without the header")
            return
        for name, expected in stored.tensors.items():
            if name not in table.infos:
                yield Finding(path, name, "is not in the header")
                continue
            at = table.offsets[name]

            def read(start: int, out: memoryview, at: int = at) -> None:
                files.read(fd, out, at + start, str(path))

            try:
                got = tensor_digest(table.infos[name].nbytes, read)[:16]
            except DeltakitError:
                yield Finding(path, name, "is cut off")
                continue
            if got != expected:
                yield Finding(path, name, f"expected blake3 {expected}, got {got}")
    finally:
        files.close(fd)


def _header(fd: int, size: int, files: Files) -> header.Header:
    """Parse a header against the size the file should have: one cut short says what it held."""
    first = bytearray(8)
    files.read(fd, memoryview(first), 0)
    length = int.from_bytes(first, "little")
    if length > min(size - 8, header.MOST_HEADER_BYTES):
        raise DeltakitError("impossible length")
    raw = bytearray(length)
    files.read(fd, memoryview(raw), 8)
    return header.parse(bytes(raw), size)
