"""What the header of a file says, without reading its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from deltakit.delta import Delta
from deltakit.delta_source import is_merged
from deltakit.lora.adapter import Adapter
from deltakit.tensors.checkpoint import Checkpoint


class HeaderReport(msgspec.Struct, frozen=True):
    """A stored delta, a model or an adapter, as far as its header tells.

    role: "add" or "replace" for a delta, else "model" or "adapter". density: stored values as a
    fraction of the base's mergeable entries, None for others. codecs: how many parameters are
    stored in which way. dtypes: how many parameters have which dtype.
    """

    task: str
    path: str
    role: str
    density: float | None
    changed_parameters: int | None
    parameters: int
    values: int
    nbytes: int
    dtypes: dict[str, int]
    codecs: dict[str, int]
    exact: bool | None
    base_fingerprint: str | None
    recipe: dict[str, str]


def read_header(source: Delta | Checkpoint | Adapter, task: str | None = None) -> HeaderReport:
    """Return what an opened delta, model or adapter says of itself; no data is read.

    nbytes: of the file or files of tensors, header included. values: entries stored.
    """
    if isinstance(source, Adapter):
        return _adapter(source, task)
    return _delta(source, task) if isinstance(source, Delta) else _model(source, task)


def _delta(delta: Delta, task: str | None) -> HeaderReport:
    tensors = delta.tensors.values()
    return HeaderReport(
        task or delta.task,
        str(delta.file.path),
        delta.role,
        delta.density,
        len(delta),
        sum(is_merged(info) for info in delta.base.infos.values()),
        sum(tensor.count for tensor in tensors),
        delta.file.header.file_size,
        _count(tensor.info.dtype for tensor in tensors),
        _count(str(tensor.codec) for tensor in tensors),
        delta.exact,
        delta.base.fingerprint,
        delta.recipe,
    )


def _model(model: Checkpoint, task: str | None) -> HeaderReport:
    infos = model.infos.values()
    return HeaderReport(
        task or Path(model.label).name,
        model.label,
        "model",
        None,
        None,
        len(model.infos),
        sum(info.numel for info in infos),
        sum(shard.header.file_size for shard in model.shards),
        _count(info.dtype for info in infos),
        {},
        None,
        None,
        {},
    )


def _adapter(adapter: Adapter, task: str | None) -> HeaderReport:
    infos = adapter.source.infos.values()
    ranks = _count(f"{part.rank}" for part in adapter.parts.values())
    return HeaderReport(
        task or adapter.path.resolve().stem,
        adapter.label,
        "adapter",
        None,
        None,
        len(adapter.parts) + len(adapter.whole) + len(adapter.rows),
        sum(info.numel for info in infos),
        adapter.file_nbytes,
        _count(info.dtype for info in infos),
        {},
        None,
        None,
        {f"modules of rank {rank}": f"{count}" for rank, count in ranks.items()},
    )


def _count(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))
