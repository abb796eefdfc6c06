"""Taking a delta: base and fine-tuned model in, one delta file out, block by block."""

from __future__ import annotations

from pathlib import Path

from deltakit.add_difference import AddDifference
from deltakit.delta_file import Progress, write_delta
from deltakit.delta_source import check_alike, differing_integers
from deltakit.difference import ReplaceDifference
from deltakit.dtypes import MERGEABLE
from deltakit.errors import BadValue, some
from deltakit.mask import Mask
from deltakit.provenance import ModelTable, render
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.source import TensorSource


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
    threads: int | None = None,
) -> None:
    """Write the mergeable delta `tuned - base`, masked if a mask is given.

    Values are stored in `dtype` (a safetensors name), by default each parameter's own; whether
    that was exact is recorded, and so are integer tensors that differ: they are not part of a
    mergeable delta. `threads`, those of the processors without, do not change a byte; they call
    `progress`, one at a time. Raises NamesDiffer, ShapeMismatch, DtypeMismatch for models that do
    not fit, NonFinite naming the tensor; nothing is left behind by a failure.
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
    write_delta(Path(path), difference, metadata, table, (base, tuned), progress, files, threads)


def write_replace(
    path: str | Path,
    base: TensorSource,
    tuned: TensorSource,
    *,
    task: str,
    base_table: ModelTable | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
    threads: int | None = None,
) -> ModelTable:
    """Write the lossless delta: new values where bytes differ, and every new tensor's digest.

    Returns the fine-tuned model's table. Tensors of another shape or dtype than the base's, or
    that the base lacks, are stored whole. `threads` and `progress` as in `write_add`.
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
    write_delta(Path(path), difference, metadata, table, (base, tuned), progress, files, threads)
    return new


def _table(base: TensorSource, known: ModelTable | None) -> ModelTable:
    """Return the base's table; one that is known already saves reading the base."""
    if known is None:
        return ModelTable(base.infos, base.digests())
    known.check_infos(base.infos, "the base's table", base.label)
    return known
