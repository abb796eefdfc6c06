"""One task of a unified delta (EMR-Merging, arXiv:2405.17461): what all tasks share, and its mask.

A folder that `deltakit unify` wrote:

  unified.safetensors     the unified delta, a delta artifact of float32 values
  <task>.safetensors      a mask artifact: one bit an entry; and the task's rescaler
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.delta import Delta
from deltakit.delta_source import DeltaSource
from deltakit.errors import BadFile, DeltakitError
from deltakit.mask import StoredMask
from deltakit.provenance import ModelTable, check_kind, parse
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.index import check_link
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from torch import Tensor

UNIFIED = "unified.safetensors"
MARK = "unified"  # in both files' metadata: which masks belong to which delta
WHOLE = ""  # the rescaler's name where there is one for the whole model


@dataclass(frozen=True)
class UnifiedTask(DeltaSource):
    """The delta of one task, rebuilt from the unified one: mask_i unified rescaler_i.

    >>> UnifiedTask.open("./emr/trec.safetensors").task                  # doctest: +SKIP
    'trec'
    """

    label: str
    task: str
    unified: Delta
    mask: StoredMask
    rescalers: Mapping[str, float]  # by parameter, or one for WHOLE
    file: SafetensorsFile  # of the mask

    @classmethod
    def open(cls, path: str | Path, files: Files = LOCAL) -> UnifiedTask:
        """Open a task's mask and the unified delta beside it; reads headers only.

        Raises BadFile for files that do not belong together or do not fit each other, NotFound
        where the unified delta is gone.
        """
        path = Path(path)
        file = SafetensorsFile(path, files)
        try:
            check_kind(file.header.metadata, "mask")
            mask = StoredMask(file)
            beside = check_link(path.resolve().with_name(UNIFIED), path.resolve().parent)
            found = cls(
                str(path),
                file.header.metadata.get("task", ""),
                Delta.open(beside, files),
                mask,
                parse(file.header.metadata, "rescalers", dict[str, float]),
                file,
            )
            found.check()
        except DeltakitError as error:
            file.close()
            raise error.at(str(path)) from None
        return found

    def check(self) -> None:
        """Raise BadFile or what `Mask.check_fits` raises for a mask and a delta of two makings."""
        own = self.file.header.metadata.get(MARK)
        if own is None or own != self.unified.recipe.get(MARK):
            raise BadFile(
                "the mask belongs to another unified delta than the one beside it",
                expected=f"{own}",
                got=f"{self.unified.recipe.get(MARK)}",
                remedy="keep the files of one deltakit unify together",
            )
        if self.unified.role != "add":
            raise BadFile("the unified delta has another role", expected="add", got="replace")
        self.mask.check_fits({name: tensor.info for name, tensor in self.unified.tensors.items()})
        for name in () if WHOLE in self.rescalers else self.unified:
            if name not in self.rescalers:
                raise BadFile(f"there is no rescaler of {name!r}")
        for value in self.rescalers.values():
            if not (math.isfinite(value) and value >= 0.0):
                raise BadFile("a rescaler is no number from 0 on", got=f"{value}")

    def check_base(self, base: TensorSource) -> list[str]:
        return self.unified.check_base(base)

    def changes(self, name: str) -> bool:
        return self.unified.changes(name)

    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        import torch

        self.unified.block_into(out, name, start, base)
        if self.changes(name):
            kept = torch.from_numpy(self.mask.keep(name, start, start + out.numel()))
            rescaler = self.rescalers.get(WHOLE, self.rescalers.get(name, 0.0))
            out.mul_(kept.to(out.dtype)).mul_(rescaler)

    @property
    def made_against(self) -> ModelTable:
        return self.unified.made_against

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return (*self.unified.files, self.file)


def is_unified_task(metadata: Mapping[str, str]) -> bool:
    """Tell whether a file's metadata is that of a task's mask of a unified delta."""
    return metadata.get("kind") == "mask" and MARK in metadata


def is_unified_mask(path: Path) -> bool:
    """Tell whether a path is the file of a task's mask that `unify` wrote."""
    metadata = _metadata(path)
    return metadata is not None and is_unified_task(metadata)


def is_unified_delta(path: Path) -> bool:
    """Tell whether a path is the file of a unified delta that `unify` wrote."""
    metadata = _metadata(path)
    if metadata is None or metadata.get("kind") != "delta":
        return False
    try:
        return MARK in parse(metadata, "recipe", dict[str, str])
    except DeltakitError:
        return False


def _metadata(path: Path) -> Mapping[str, str] | None:
    """Return what a file's header says; None for no file of its own, or no safetensors file."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        file = SafetensorsFile(path)
    except DeltakitError:
        return None
    file.close()
    return file.header.metadata
