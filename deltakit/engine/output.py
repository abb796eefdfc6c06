"""The output's files: written behind the workers, made durable when their last byte is in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from deltakit.engine.shards import Shard
from deltakit.tensors.files import Files
from deltakit.tensors.writer import SafetensorsWriter

_THREADS = 2  # one disk takes no more at once; they wait, and use no processor


class Output:
    """Writes tensors into shards while the caller goes on.

    `progress` is told of every write, `complete` of a shard before it gets its name.

    Leaving the `with` block waits for all that was handed in; by an exception it discards the
    files not yet complete.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        files: Files,
        progress: Callable[[str, int], None] | None = None,
        complete: Callable[[Shard], None] | None = None,
    ) -> None:
        self._folder, self._files = folder, files
        self._progress, self._complete = progress, complete
        self._home = {name: shard for shard in shards for name in shard.infos}
        # A shard of empty tensors only is complete when each was handed in once.
        self._missing = {shard.file_name: len(shard.infos) for shard in shards}
        self._left = {n: info.nbytes for s in shards for n, info in s.infos.items()}
        self._open: dict[str, SafetensorsWriter] = {}
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="deltakit-write")

    def offset(self, name: str, start: int) -> int:
        """Return where in its file byte `start` of a tensor lies."""
        return self._writer(self._home[name]).offset(name) + start

    def write(self, name: str, start: int, data: memoryview) -> Future[None]:
        """Write bytes of a tensor from its byte `start`; each byte is to come exactly once.

        `data` is not to be touched until the future returned is done.
        """
        return self._pool.submit(self._write, name, start, data)

    def _write(self, name: str, start: int, data: memoryview) -> None:
        try:
            self._write_now(name, start, data)
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def _write_now(self, name: str, start: int, data: memoryview) -> None:
        shard = self._home[name]
        self._writer(shard).write(name, start, data)
        if self._progress:
            self._progress(name, len(data))
        if self._is_complete(shard, name, len(data)):
            if self._complete:
                self._complete(shard)
            self._open.pop(shard.file_name).__exit__(None, None, None)

    def _writer(self, shard: Shard) -> SafetensorsWriter:
        with self._lock:
            if shard.file_name not in self._open:
                path = self._folder / shard.file_name
                metadata = {"format": "pt"}
                writer = SafetensorsWriter(path, shard.infos, metadata, files=self._files)
                self._open[shard.file_name] = writer.__enter__()
            return self._open[shard.file_name]

    def _is_complete(self, shard: Shard, name: str, count: int) -> bool:
        with self._lock:
            self._left[name] -= count
            if self._left[name] == 0:
                self._missing[shard.file_name] -= 1
            return self._missing[shard.file_name] == 0

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        failure = error or self._failure
        for writer in self._open.values():
            with contextlib.suppress(OSError):
                writer.__exit__(type(failure or RuntimeError()), failure, trace)
        if error is None and self._failure is not None:
            raise self._failure
        if error is None and any(self._missing.values()):
            raise RuntimeError(f"tensors were not written: {self._missing}")
