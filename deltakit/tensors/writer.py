"""A safetensors file written in any order: header first, space preallocated, bytes at offsets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deltakit.dtypes import DTYPES
from deltakit.tensors import header
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.new_file import NewFile


def layout(infos: Mapping[str, TensorInfo]) -> list[tuple[str, TensorInfo]]:
    """Return tensors in file order: widest dtype first, so that each is aligned, then by name."""
    return sorted(infos.items(), key=lambda item: (-DTYPES[item[1].dtype][0], item[0]))


class SafetensorsWriter:
    """Write a safetensors file whose tensors are known beforehand by name, dtype and shape.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> with SafetensorsWriter(path, {"x": TensorInfo("U8", (2,))}) as writer:
    ...     writer.write("x", 0, bytes([1, 2]))

    `write` may be called from several threads. The file appears under its name, durable, when the
    `with` block ends well, and not at all otherwise. The same tensors give the same bytes.
    """

    def __init__(
        self,
        path: Path,
        infos: Mapping[str, TensorInfo],
        metadata: Mapping[str, str] | None = None,
        *,
        replace: bool = False,
        files: Files = LOCAL,
    ) -> None:
        ordered = layout(infos)
        prefix = header.build(ordered, metadata or {})
        self._offsets: dict[str, int] = {}
        at = len(prefix)
        for name, info in ordered:
            self._offsets[name] = at
            at += info.nbytes
        self._ends = {name: self._offsets[name] + info.nbytes for name, info in ordered}
        self._file = NewFile(path, at, replace=replace, files=files)
        self._prefix = prefix

    def offset(self, name: str) -> int:
        """Return where in the file tensor `name` begins."""
        return self._offsets[name]

    def write(self, name: str, start: int, data: bytes | memoryview) -> None:
        """Write `data` at byte `start` of tensor `name`."""
        offset = self._offsets[name] + start
        if start < 0 or offset + memoryview(data).nbytes > self._ends[name]:
            raise IndexError(f"write past the end of {name!r}")
        self._file.write(data, offset)

    def __enter__(self) -> SafetensorsWriter:
        self._file.__enter__()
        try:
            self._file.write(self._prefix, 0)
        except BaseException as error:
            self._file.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)  # type: ignore[arg-type]
