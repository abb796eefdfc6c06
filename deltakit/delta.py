"""Delta: what one task changes in a base model, as a safetensors file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deltakit.delta_source import DeltaSource, check_alike, integers_note, is_merged
from deltakit.dtypes import itemsize, torch_dtype, widened
from deltakit.errors import BadFile, DeltakitError, UnknownName, nearest
from deltakit.lazy import LazyDelta
from deltakit.mask import RandomMask
from deltakit.provenance import ModelTable, check_kind, parse
from deltakit.stored import Filled
from deltakit.tensors import codec
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.source import TensorSource
from deltakit.tensors.sparse import SparseTensor

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Role = Literal["add", "replace"]


class Delta(DeltaSource):
    """A stored delta: sparse, read by blocks, tied to one base by its digests.

    >>> delta = Delta.open("trec.safetensors")                           # doctest: +SKIP
    >>> delta.role, delta.density                                        # doctest: +SKIP
    ('add', 0.1)

    Role "add": values to add to the base, in the stated dtype. Role "replace": the new values at
    the positions whose bytes differ, with which the fine-tuned model is restored bit for bit.
    Parameters that did not change are absent. Raises BadFile for a file that is not a delta.
    """

    def __init__(self, file: SafetensorsFile) -> None:
        self.file = file
        self.label = str(file.path)
        metadata = file.header.metadata
        check_kind(metadata, "delta")
        role = metadata.get("role")
        if role not in ("add", "replace"):
            raise BadFile(f"unknown role {role!r}", expected="add or replace")
        self.role: Role = "add" if role == "add" else "replace"
        self.task = metadata.get("task", "")
        self.base = ModelTable.parse(metadata, "base_tensors")
        self.as_stored = self.role == "add"
        # What the fine-tuned model is: told for replace, the base's own names for add.
        self.new = ModelTable.parse(metadata, "new_tensors") if role == "replace" else self.base
        self.recipe: dict[str, str] = parse(metadata, "recipe", dict[str, str])
        self.exact = metadata.get("exact") == "true"
        self.tensors = {
            name: self._sparse(name, kind) for name, kind in codec.codecs(file.header.infos).items()
        }
        for name, info in self.new.infos.items():
            if name not in self.tensors and self.base.infos.get(name) != info:
                raise BadFile(f"the parameter {name!r} is not in the base, and not in the file")

    def _sparse(self, name: str, kind: codec.Codec) -> SparseTensor:
        info = self.new.infos.get(name)
        if info is None:
            raise BadFile(f"the parameter {name!r} is in no table of the metadata")
        draws = None
        if kind == "seed":
            mask = RandomMask.parse(self.recipe)
            draws = (mask.draws(name), mask.density)
        tensor = SparseTensor(self.file, name, kind, info.shape, draws)
        if self.role == "replace":
            fits = tensor.info.dtype == info.dtype
            fits &= kind == "dense" or self.base.infos.get(name) == info
        else:
            fits = is_merged(tensor.info) and is_merged(info)
        if not fits:
            raise BadFile(f"the values of {name!r} do not fit the tables of the metadata")
        return tensor

    @classmethod
    def open(cls, path: str | Path, files: Files = LOCAL) -> Delta:
        """Open a delta file; reads its header only."""
        file = SafetensorsFile(Path(path), files)
        try:
            return cls(file)
        except DeltakitError as error:
            file.close()
            raise error.at(str(path)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.tensors))

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        """Return the whole delta of a parameter, role "add" only, in its values' dtype."""
        import torch

        tensor = self.tensors.get(name)
        if tensor is None:
            close = nearest(name, list(self.tensors))
            raise UnknownName(
                f"the delta does not change {name!r}",
                where=self.label,
                remedy=f"did you mean {close!r}?" if close else None,
            )
        if self.role == "replace":
            raise DeltakitError("a replace delta holds new values, not differences")
        out = torch.zeros(tensor.info.numel, dtype=torch_dtype(tensor.info.dtype))
        tensor.add_to(out, 0)
        return out.reshape(tensor.info.shape)

    @property
    def density(self) -> float:
        """The fraction of the base's mergeable entries that hold a value."""
        kept = sum(t.count for n, t in self.tensors.items() if is_merged(t.info))
        return kept / max(1, sum(i.numel for i in self.base.infos.values() if is_merged(i)))

    def check_base(self, base: TensorSource) -> list[str]:
        """Raise WrongBase unless names, shapes and dtypes are those it was made against.

        The digests are compared where the base's are known (`ModelTable.check_same`). A replace
        delta of a model that cannot be merged raises what `check_alike` raises.
        """
        self.base.check_infos(base.infos, f"the delta {self.label}", base.label)
        notes: list[str] = []
        if self.role == "replace":
            notes = check_alike(base.infos, self.new.infos, self.label)
        left = self.integers_left
        return [*notes, integers_note(self.label, left)] if left else notes

    @property
    def integers_left(self) -> list[str]:
        """The integer tensors that the fine-tuned model changed, which no merge applies."""
        if self.role == "replace":
            return sorted(n for n, t in self.tensors.items() if not is_merged(t.info))
        if "integers_left" not in self.recipe:
            return []
        names: list[str] = parse(self.recipe, "integers_left", list[str])
        return names

    def changes(self, name: str) -> bool:
        return name in self.tensors

    def most_values(self, name: str, numel: int) -> int:
        adds = self.role == "add" and self.changes(name)
        return self.tensors[name].count if adds else super().most_values(name, numel)

    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        out.zero_()
        if name in self.tensors:
            self.tensors[name].add_to(out, start, minus=base if self.role == "replace" else None)

    def lazy_block(self, name: str, start: int, base: LazyDelta, raw: np.ndarray) -> LazyDelta:
        if self.role == "replace":
            return super().lazy_block(name, start, base, raw)
        tensor = self.tensors.get(name)
        if tensor is not None and base.dtype == widened(tensor.info.dtype) == "F32":
            return LazyDelta(tensor.stored(start, start + base.numel(), raw))
        # The base's values are not asked for.
        out = Filled(base.dtype, raw[: base.numel() * itemsize(base.dtype)])
        out.raw.fill(0)
        if tensor is not None:
            tensor.add_to(out.tensor, start)
        return LazyDelta(out)

    @property
    def made_against(self) -> ModelTable:
        return self.base

    @property
    def files(self) -> list[SafetensorsFile]:
        return [self.file]

    def close(self) -> None:
        self.file.close()
