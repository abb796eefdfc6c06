"""The file of a delta: its entries are counted, laid out and written, by a few threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

from deltakit.delta_source import is_merged
from deltakit.difference import BLOCK, Count, Difference
from deltakit.dtypes import itemsize
from deltakit.errors import AlreadyThere, BadValue
from deltakit.provenance import FORMAT, ModelTable
from deltakit.tensors import codec
from deltakit.tensors.files import Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource
from deltakit.tensors.writer import SafetensorsWriter
from deltakit.threads import one_torch_thread, run_all, usual_threads

Progress = Callable[[str, int], None]  # parameter, entries done since the last call
_Block = tuple[str, int, int]  # parameter, flat range
_AHEAD = 3  # parameters that are looked at before their turn


@dataclass
class _Stored:
    """How one parameter is stored, decided when its entries were counted."""

    codec: codec.Codec
    info: TensorInfo
    starts: list[int]  # how many values stand before each block, and at the end

    @property
    def count(self) -> int:
        return self.starts[-1]


def write_delta(
    path: Path,
    difference: Difference,
    metadata: dict[str, str],
    base: ModelTable,
    sources: tuple[TensorSource, TensorSource],
    progress: Progress | None,
    files: Files,
    threads: int | None,
) -> None:
    """Write a delta in two passes: its layout is known before its bytes.

    `metadata` is completed by what the first pass found. Raises AlreadyThere, BadValue for fewer
    than one of `threads`, InputChanged where one of the `sources` did, and what the difference
    raises; nothing is left behind then.
    """
    if threads is not None and threads < 1:
        raise BadValue("the number of threads is not above 0", got=f"{threads}")
    if files.exists(path):
        raise AlreadyThere("the file exists already", where=str(path), remedy="name another")
    if difference.computes:
        import torch  # noqa: F401  before it is told to use one thread of each of ours
    told, threads = _Told(progress), threads or usual_threads()
    with one_torch_thread():
        stored = _laid_out(difference, base, told, threads)
        tensors: dict[str, TensorInfo] = {}
        for name, part in stored.items():
            info = part.info
            tensors |= codec.stored(name, part.codec, info.dtype, info.shape, part.count)
        kept = sum(part.count for part in stored.values() if is_merged(part.info))
        total = sum(info.numel for info in base.infos.values() if is_merged(info))
        metadata |= {
            "deltakit": str(FORMAT),
            "kind": "delta",
            "base": base.fingerprint,
            "exact": "true" if difference.exact else "false",
            "density": repr(kept / max(1, total)),
        }
        with SafetensorsWriter(path, tensors, metadata, files=files) as writer:

            def write(block: _Block) -> None:
                name, start, stop = block
                _write_block(writer, difference, name, stored[name], start, stop)
                told(name, stop - start)

            run_all(write, _blocks({name: part.info for name, part in stored.items()}), threads)
            for source in sources:
                source.check_unchanged()


def _laid_out(
    difference: Difference, base: ModelTable, told: Progress, threads: int
) -> dict[str, _Stored]:
    """Count all entries, and return how each parameter is stored of which any is."""
    infos = difference.infos()
    counts = {name: [Count(0)] * len(_starts(info)) for name, info in infos.items()}

    def count(block: _Block) -> None:
        name, start, stop = block
        counts[name][start // BLOCK] = difference.count(name, start, stop)
        told(name, stop - start)

    run_all(_do, _looked_ahead(difference, infos, count), threads)
    chosen = {name: _chosen(name, info, counts[name]) for name, info in infos.items()}
    stored = {
        name: part
        for name, part in chosen.items()
        if part.count or (not part.info.numel and base.infos.get(name) != part.info)
    }
    codec.check_names(stored)
    return stored


class _Told:
    """Progress of several threads, told by one at a time."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._lock = progress, threading.Lock()

    def __call__(self, name: str, entries: int) -> None:
        if self._progress:
            with self._lock:
                self._progress(name, entries)


def _do(job: Callable[[], None]) -> None:
    job()


def _looked_ahead(
    difference: Difference, infos: Mapping[str, TensorInfo], do: Callable[[_Block], None]
) -> Iterator[Callable[[], None]]:
    """Yield what is to be done with all blocks, and looks at whole parameters some time before.

    Threads that are at one parameter need not wait for what one of them finds out of it.
    """
    names = list(infos)
    for number in range(len(names) + _AHEAD):
        if number < len(names):
            yield partial(difference.look, names[number])
        if number >= _AHEAD:
            name = names[number - _AHEAD]
            for block in _blocks({name: infos[name]}):
                yield partial(do, block)


def _starts(info: TensorInfo) -> range:
    return range(0, info.numel, BLOCK)


def _blocks(infos: Mapping[str, TensorInfo]) -> Iterator[_Block]:
    for name, info in infos.items():
        for start in _starts(info):
            yield name, start, min(start + BLOCK, info.numel)


def _chosen(name: str, info: TensorInfo, counts: Sequence[Count]) -> _Stored:
    """Choose how a parameter is stored: the smallest way, dense where two are level."""
    stored = [block.stored for block in counts]
    drawn = [block.drawn for block in counts if block.drawn is not None]
    if not any(stored):
        return _Stored("dense", info, [0])
    chosen = codec.choose(info.dtype, info.numel, sum(stored))
    tensors = codec.stored(name, chosen, info.dtype, info.shape, sum(stored))
    nbytes = sum(part.nbytes for part in tensors.values())
    if drawn and sum(drawn) * itemsize(info.dtype) < nbytes:
        return _Stored("seed", info, list(accumulate(drawn, initial=0)))
    if chosen == "dense":
        return _Stored(chosen, info, [*_starts(info), info.numel])
    return _Stored(chosen, info, list(accumulate(stored, initial=0)))


def _write_block(
    writer: SafetensorsWriter,
    difference: Difference,
    name: str,
    stored: _Stored,
    start: int,
    stop: int,
) -> None:
    import numpy as np

    part = difference.part(name, start, stop, stored.codec)
    number = start // BLOCK
    first, last = stored.starts[number], stored.starts[number + 1]
    size = itemsize(stored.info.dtype)
    if part.values.nbytes != (last - first) * size:
        raise BadValue(f"{name!r} changed between two passes", remedy="run the command again")
    held = name if stored.codec == "dense" else name + codec.VALUES
    writer.write(held, first * size, memoryview(part.values).cast("B"))
    if stored.codec == "bitmask":
        writer.write(name + codec.BITMASK, start // 8, memoryview(part.bits))
    elif stored.codec == "indices":
        kind = np.dtype("<u4" if codec.index_dtype(stored.info.numel) == "U32" else "<u8")
        kept = np.flatnonzero(codec.unpack(part.bits, 0, stop - start))
        indices = (kept + start).astype(kind)
        writer.write(name + codec.INDICES, first * kind.itemsize, memoryview(indices).cast("B"))
