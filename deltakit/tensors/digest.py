"""Digests of tensors, and the fingerprint of a whole model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo

CHUNK = 4 << 20


def tensor_digest(nbytes: int, read: Callable[[int, memoryview], None]) -> str:
    """Return the blake3 of `nbytes` bytes given piece by piece by `read(start, buffer)`."""
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    buffer = memoryview(bytearray(min(CHUNK, nbytes)))
    for start in range(0, nbytes, CHUNK):
        part = buffer[: min(CHUNK, nbytes - start)]
        read(start, part)
        hasher.update(part)
    return hasher.hexdigest()


def file_digest(path: Path, files: Files = LOCAL) -> tuple[int, str]:
    """Return size and blake3 of a file."""
    fd = files.open(path)
    try:
        size = files.state(fd).size
        return size, tensor_digest(size, lambda at, out: files.read(fd, out, at, str(path)))
    finally:
        files.close(fd)


def bytes_digest(data: bytes | memoryview) -> str:
    """Return the blake3 of some bytes, in hexadecimal."""
    from blake3 import blake3

    return blake3(data).hexdigest()


def whole_fingerprint(infos: Mapping[str, TensorInfo], digests: Mapping[str, str]) -> str:
    """Return the hash over sorted (name, dtype, shape, digest) that identifies a model.

    It depends on no file name, shard layout or tensor order. Each tensor contributes one line of
    JSON, so that no two lists of tensors run together into the same text.
    """
    lines = (
        json.dumps([name, infos[name].dtype, list(infos[name].shape), digests[name]])
        for name in sorted(infos)
    )
    return bytes_digest("\n".join(lines).encode())
