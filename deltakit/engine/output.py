"""The output's files: opened when first written to, made durable when their last byte is in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

from deltakit.engine.shards import Shard
from deltakit.tensors.files import Files
from deltakit.tensors.writer import SafetensorsWriter


class Output:
    """Writes tensors into shards from several threads.

    Leaving the `with` block by an exception discards the files not yet complete.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard], files: Files) -> None:
        self._folder, self._files = folder, files
        self._home = {name: shard for shard in shards for name in shard.infos}
        # A shard of empty tensors only is complete when each was handed in once.
        self._missing = {shard.file_name: len(shard.infos) for shard in shards}
        self._left = {n: info.nbytes for s in shards for n, info in s.infos.items()}
        self._open: dict[str, SafetensorsWriter] = {}
        self._lock = threading.Lock()

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Write bytes of a tensor from its byte `start`; each byte is to come exactly once."""
        shard = self._home[name]
        self._writer(shard).write(name, start, data)
        if self._complete(shard, name, len(data)):
            self._open.pop(shard.file_name).__exit__(None, None, None)

    def _writer(self, shard: Shard) -> SafetensorsWriter:
        with self._lock:
            if shard.file_name not in self._open:
                path = self._folder / shard.file_name
                metadata = {"format": "pt"}
                writer = SafetensorsWriter(path, shard.infos, metadata, files=self._files)
                self._open[shard.file_name] = writer.__enter__()
            return self._open[shard.file_name]

    def _complete(self, shard: Shard, name: str, count: int) -> bool:
        with self._lock:
            self._left[name] -= count
            if self._left[name] == 0:
                self._missing[shard.file_name] -= 1
            return self._missing[shard.file_name] == 0

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        for writer in self._open.values():
            cause = kind or RuntimeError
            with contextlib.suppress(OSError):
                writer.__exit__(cause, error, trace)
        if kind is None and any(self._missing.values()):
            raise RuntimeError(f"tensors were not written: {self._missing}")
