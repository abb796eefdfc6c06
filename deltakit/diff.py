"""Taking a delta: base and fine-tuned model in, one delta file out, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deltakit.delta_source import check_alike, differing_integers, is_merged
from deltakit.difference import BLOCK, AddDifference, Difference, ReplaceDifference
from deltakit.dtypes import MERGEABLE, itemsize
from deltakit.errors import AlreadyThere, BadValue, some
from deltakit.mask import Mask
from deltakit.provenance import FORMAT, ModelTable, render
from deltakit.tensors import codec
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource
from deltakit.tensors.writer import SafetensorsWriter

Progress = Callable[[str, int], None]  # parameter, entries done since the last call


def write_add(
    path: str | Path,
    base: TensorSource,
    tuned: TensorSource,
    *,
    task: str,
    mask: Mask | None = None,
    dtype: str | None = None,
    base_table: ModelTable | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
) -> None:
    """Write the mergeable delta `tuned - base`, masked if a mask is given.

    Values are stored in `dtype` (a safetensors name), by default each parameter's own; whether
    that was exact is recorded, and so are integer tensors that differ: they are not part of a
    mergeable delta. Raises NamesDiffer,
    ShapeMismatch, DtypeMismatch for models that do not fit, NonFinite naming the tensor; nothing
    is left behind by a failure.
    """
    check_alike(base.infos, tuned.infos, tuned.label)
    if dtype is not None and dtype not in MERGEABLE:
        raise BadValue(f"deltas are not stored as {dtype!r}", expected=some(MERGEABLE, 9))
    difference = AddDifference(base, tuned, mask, dtype)
    if mask is not None:
        mask.check_fits(difference.infos())
    recipe = {"mask": "none"} if mask is None else mask.describe()
    left = differing_integers(base, tuned)
    if left:
        recipe["integers_left"] = render(left)
    table = _table(base, base_table)
    metadata = {
        "role": "add",
        "task": task,
        "base_tensors": table.render(),
        "recipe": render(recipe),
    }
    _write(Path(path), difference, metadata, table, (base, tuned), progress, files)


def write_replace(
    path: str | Path,
    base: TensorSource,
    tuned: TensorSource,
    *,
    task: str,
    base_table: ModelTable | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
) -> ModelTable:
    """Write the lossless delta: new values where bytes differ, and every new tensor's digest.

    Returns the fine-tuned model's table. Tensors of another shape or dtype than the base's, or
    that the base lacks, are stored whole.
    """
    table = _table(base, base_table)
    new = ModelTable(tuned.infos, tuned.digests())
    metadata = {
        "role": "replace",
        "task": task,
        "base_tensors": table.render(),
        "new_tensors": new.render(),
        "recipe": render({"mask": "none"}),
    }
    difference = ReplaceDifference(base, tuned)
    _write(Path(path), difference, metadata, table, (base, tuned), progress, files)
    return new


def _table(base: TensorSource, known: ModelTable | None) -> ModelTable:
    """Return the base's table; one that is known already saves reading the base."""
    if known is None:
        return ModelTable(base.infos, base.digests())
    known.check_infos(base.infos, "the base's table", base.label)
    return known


@dataclass
class _Part:
    """How one parameter is stored, decided when its entries were counted."""

    codec: codec.Codec
    info: TensorInfo
    count: int


def _write(
    path: Path,
    difference: Difference,
    metadata: dict[str, str],
    base: ModelTable,
    sources: tuple[TensorSource, TensorSource],
    progress: Progress | None,
    files: Files,
) -> None:
    """Count, lay out, write: two passes, so that the file's layout is known before its bytes."""
    if files.exists(path):
        raise AlreadyThere("the file exists already", where=str(path), remedy="name another")
    parts: dict[str, _Part] = {}
    tensors: dict[str, TensorInfo] = {}
    for name, info in difference.infos().items():
        part = _count(difference, name, info)
        if progress:
            progress(name, info.numel)
        if part.count or (not info.numel and base.infos.get(name) != info):
            parts[name] = part
            tensors.update(codec.stored(name, part.codec, info.dtype, info.shape, part.count))
    codec.check_names(parts)
    kept = sum(part.count for part in parts.values() if is_merged(part.info))
    total = sum(info.numel for info in base.infos.values() if is_merged(info))
    metadata |= {
        "deltakit": str(FORMAT),
        "kind": "delta",
        "base": base.fingerprint,
        "exact": "true" if difference.exact else "false",
        "density": repr(kept / max(1, total)),
    }
    with SafetensorsWriter(path, tensors, metadata, files=files) as writer:
        for name, part in parts.items():
            _write_part(writer, difference, name, part)
            if progress:
                progress(name, part.info.numel)
        for source in sources:
            source.check_unchanged()


def _blocks(info: TensorInfo) -> Iterator[tuple[int, int]]:
    for start in range(0, info.numel, BLOCK):
        yield start, min(start + BLOCK, info.numel)


def _count(difference: Difference, name: str, info: TensorInfo) -> _Part:
    """Choose how a parameter is stored: the smallest way, dense where two are level."""
    stored, drawn = 0, 0
    seeded = False
    for start, stop in _blocks(info):
        kept, seed, _ = difference.block(name, start, stop)
        stored += int(kept.sum())
        if seed is not None:
            seeded, drawn = True, drawn + int(seed.sum())
    if not stored:
        return _Part("dense", info, 0)
    chosen = codec.choose(info.dtype, info.numel, stored)
    tensors = codec.stored(name, chosen, info.dtype, info.shape, stored)
    nbytes = sum(part.nbytes for part in tensors.values())
    if seeded and drawn * itemsize(info.dtype) < nbytes:
        return _Part("seed", info, drawn)
    return _Part(chosen, info, info.numel if chosen == "dense" else stored)


def _write_part(writer: SafetensorsWriter, difference: Difference, name: str, part: _Part) -> None:
    import torch

    size, done = itemsize(part.info.dtype), 0
    for start, stop in _blocks(part.info):
        kept, seed, values = difference.block(name, start, stop)
        flat = values.view(torch.uint8).numpy().view(f"u{size}")
        if part.codec == "dense":
            # Dense holds every entry: of a replace delta also those that are as in the base.
            whole = flat * kept if difference.absent_is_zero else flat
            writer.write(name, start * size, whole.tobytes())
            continue
        kept = seed if part.codec == "seed" and seed is not None else kept
        writer.write(name + codec.VALUES, done * size, flat[kept].tobytes())
        if part.codec == "bitmask":
            writer.write(name + codec.BITMASK, start // 8, codec.pack(kept).tobytes())
        elif part.codec == "indices":
            kind = "<u4" if codec.index_dtype(part.info.numel) == "U32" else "<u8"
            indices = kept.nonzero()[0] + start
            data = indices.astype(kind).tobytes()
            writer.write(name + codec.INDICES, done * int(kind[-1]), data)
        done += int(kept.sum())
    if part.codec != "dense" and done != part.count:
        raise BadValue(f"{name!r} changed between two passes", remedy="run the command again")
