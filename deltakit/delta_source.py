"""What a merge reads of an expert: its delta to the base, block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.dtypes import MERGEABLE, itemsize
from deltakit.errors import DtypeMismatch, NamesDiffer, ShapeMismatch, nearest, some
from deltakit.lazy import LazyDelta
from deltakit.stored import Filled
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from deltakit.provenance import ModelTable
    from deltakit.tensors.reader import SafetensorsFile


class DeltaSource(ABC):
    """One expert seen from a base: flat blocks of `tuned - base`.

    `ModelDelta` computes them from a fine-tuned model, `Delta` reads them from an artifact.
    """

    label: str
    as_stored = False  # whether blocks are what files hold, and nothing needs to be computed

    @abstractmethod
    def check_base(self, base: TensorSource) -> list[str]:
        """Raise for a base this delta does not fit; return notes on what is not merged."""

    @abstractmethod
    def changes(self, name: str) -> bool:
        """Tell whether the delta may be other than zero in this parameter (no data is read)."""

    def most_values(self, name: str, numel: int) -> int:
        """Return how many of the parameter's `numel` entries may be other than 0, at most."""
        return numel if self.changes(name) else 0

    @abstractmethod
    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        """Fill flat `out` with the delta of entries start.. of `name`.

        `base` holds the base's values of the same entries; both are float32, or float64 for
        float64 parameters.
        """

    def lazy_block(self, name: str, start: int, base: LazyDelta, raw: np.ndarray) -> LazyDelta:
        """Return the delta of the entries from `start` whose base values are `base`.

        It is read into raw: uint8, 8 bytes an entry, in use for as long as what is returned.
        """
        out = Filled(base.dtype, raw[: base.numel() * itemsize(base.dtype)])
        self.block_into(out.tensor, name, start, base.tensor)
        return LazyDelta(out)

    @property
    def made_against(self) -> ModelTable | None:
        """The base that an artifact was made against; None where nothing tells."""
        return None

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        """The files behind this source."""
        return ()

    def check_unchanged(self) -> None:
        """Raise InputChanged when a file behind this source was changed since it was opened."""
        for file in self.files:
            file.check_unchanged()


def is_merged(info: TensorInfo) -> bool:
    """Tell whether tensors of this dtype are merged; all others are copied from the base."""
    return info.dtype in MERGEABLE


def merged_names(infos: Mapping[str, TensorInfo]) -> list[str]:
    """Return the names of the tensors that are merged, sorted."""
    return sorted(name for name, info in infos.items() if is_merged(info))


class ModelDelta(DeltaSource):
    """The delta of a fine-tuned model, computed as it is read.

    >>> import torch
    >>> from deltakit.tensors.source import MemoryTensors
    >>> base, tuned = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0])
    >>> delta = ModelDelta(MemoryTensors({"w": tuned}))
    >>> out = torch.empty(2)
    >>> delta.block_into(out, "w", 0, base)
    >>> out
    tensor([0.5000, 0.0000])
    """

    as_stored = True

    def __init__(self, tuned: TensorSource) -> None:
        import threading

        self.tuned = tuned
        self.label = tuned.label
        self._scratch = threading.local()

    def check_base(self, base: TensorSource) -> list[str]:
        notes = check_alike(base.infos, self.tuned.infos, self.label)
        differ = differing_integers(base, self.tuned)
        return [*notes, integers_note(self.label, differ)] if differ else notes

    def changes(self, name: str) -> bool:
        return True

    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        import numpy as np

        raw = getattr(self._scratch, "raw", None)
        if raw is None or raw.size < out.numel() * 8:
            raw = self._scratch.raw = np.empty(out.numel() * 8, dtype=np.uint8)
        LazyDelta(self.tuned.stored(name, start, start + out.numel(), raw), base).into(out)

    def lazy_block(self, name: str, start: int, base: LazyDelta, raw: np.ndarray) -> LazyDelta:
        stored = self.tuned.stored(name, start, start + base.numel(), raw)
        return LazyDelta(stored, base.stored)

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self.tuned.files


def differing_integers(base: TensorSource, tuned: TensorSource) -> list[str]:
    """Return the tensors that are not merged and differ all the same; reads only such tensors."""
    others = [name for name, info in base.infos.items() if not is_merged(info) and info.numel]
    return [name for name in sorted(others) if base.digest(name) != tuned.digest(name)]


def integers_note(label: str, names: list[str]) -> str:
    return f"{label}: integer tensors differ, and are the base's in what is merged: {some(names)}"


def check_alike(
    base: Mapping[str, TensorInfo], tuned: Mapping[str, TensorInfo], label: str
) -> list[str]:
    """Raise unless `tuned` has the base's tensor names and shapes; return notes on dtypes.

    A float tensor may have another float dtype (the delta is taken in float32). Raises
    NamesDiffer, ShapeMismatch or DtypeMismatch, naming tensor and model.
    """
    missing, extra = set(base) - set(tuned), set(tuned) - set(base)
    if missing or extra:
        close = nearest(min(missing), list(extra)) if missing and extra else None
        raise NamesDiffer(
            f"the model does not have the base's tensors: {len(missing)} missing,"
            f" {len(extra)} extra",
            where=label,
            expected=f"also {some(missing)}" if missing else None,
            got=f"also {some(extra)}" if extra else None,
            remedy=f"is {close!r} what the base calls {min(missing)!r}?"
            if close
            else "compare models of one architecture, saved the same way",
        )
    notes: list[str] = []
    for name in sorted(base):
        ours, theirs = base[name], tuned[name]
        if ours.shape != theirs.shape:
            raise ShapeMismatch(
                f"tensor {name!r} has another shape",
                where=label,
                expected=f"{list(ours.shape)}, as in the base",
                got=f"{list(theirs.shape)}",
                remedy="another head cannot be merged; a resized vocabulary can, of model folders"
                " with their tokenizers: --tokenizer base or union",
            )
        if ours.dtype != theirs.dtype and not (is_merged(ours) and is_merged(theirs)):
            raise DtypeMismatch(
                f"tensor {name!r} has another dtype",
                where=label,
                expected=f"{ours.dtype}, as in the base",
                got=theirs.dtype,
            )
    others = {t.dtype for n, t in tuned.items() if t.dtype != base[n].dtype}
    if others:
        notes.append(
            f"{label}: stored as {some(others)} where the base is not; compared in float32"
        )
    return notes
