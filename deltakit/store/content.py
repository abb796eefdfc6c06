"""Immutable files named for their content: how a written file gets its name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from deltakit.store.manifest import StoredFile
from deltakit.tensors.digest import file_digest, tensor_digest
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.new_file import temporary_name
from deltakit.tensors.reader import SafetensorsFile


def describe(path: Path, files: Files = LOCAL) -> StoredFile:
    """Return what a manifest says of a safetensors file."""
    size, digest = file_digest(path, files)
    file = SafetensorsFile(path, files)
    try:
        tensors = {
            name: tensor_digest(info.nbytes, partial(file.read, name))[:16]
            for name, info in file.header.infos.items()
        }
    finally:
        file.close()
    return StoredFile(size=size, blake3=digest, tensors=tensors)


@contextlib.contextmanager
def incoming(folder: Path, files: Files = LOCAL) -> Iterator[Path]:
    """Give a temporary name to write a file under; what is left under it afterwards is deleted."""
    path = temporary_name(folder / "incoming.safetensors")
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            if files.exists(path):
                files.delete(path)


def keep(
    folder: Path, kind: str, write: Callable[[Path], object], files: Files = LOCAL
) -> tuple[str, StoredFile]:
    """Have `write(path)` write a file, and give it its content's name: (name, what it is).

    The same content already there is left as it is; a damaged file of that name is replaced.
    """
    with incoming(folder, files) as path:
        write(path)
        stored = describe(path, files)
        target = folder / f"{kind}-{stored.blake3}.safetensors"
        there = files.exists(target) and file_digest(target, files) == (stored.size, stored.blake3)
        if not there:
            files.rename(path, target)
            files.sync_folder(folder)
    return target.name, stored
