"""An expert's delta as a merge reads it, every embedding in the output's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.delta_source import DeltaSource, ModelDelta
from deltakit.dtypes import itemsize
from deltakit.lazy import LazyDelta
from deltakit.stored import Filled
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary.rows import Rows
from deltakit.vocabulary.tensors import width_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from deltakit.tensors.reader import SafetensorsFile


class MatchedDelta(DeltaSource):
    """An expert's delta with the output's rows: zero where it or the base has no such token.

    What is lent to a model counts as its own.

    `seen` is the base as the expert itself knows it, with the expert's own number of rows.
    """

    def __init__(
        self, inner: DeltaSource, expert: int, seen: TensorSource, tensors: Mapping[str, Rows]
    ) -> None:
        self.inner, self.label, self.seen = inner, inner.label, seen
        self._expert, self._tensors = expert, tensors
        self.as_stored = inner.as_stored

    def check_base(self, base: TensorSource) -> list[str]:
        return self.inner.check_base(self.seen)

    def changes(self, name: str) -> bool:
        return self.inner.changes(name)

    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        rows = self._tensors.get(name)
        if rows is None:
            self.inner.block_into(out, name, start, base)
            return
        out.zero_()
        stop, width = start + out.numel(), width_of(self.seen.infos[name])
        for low, high, at in rows.places(start, stop, width, self._expert):
            part = slice(low - start, high - start)
            self.inner.block_into(out[part], name, at, base[part])
        for low, high, row, offset in rows.borrowed(start, stop, width, self._expert):
            part = slice(low - start, high - start)
            lent = rows.lent[row].block(name, offset, offset + high - low, width, out.dtype)
            out[part] = lent - base[part]

    def lazy_block(self, name: str, start: int, base: LazyDelta, raw: np.ndarray) -> LazyDelta:
        rows = self._tensors.get(name)
        if rows is None:
            return self.inner.lazy_block(name, start, base, raw)
        count, width = base.numel(), width_of(self.seen.infos[name])
        places = list(rows.places(start, start + count, width, self._expert))
        there = sum(high - low for low, high, _ in places)
        if there < count or not isinstance(self.inner, ModelDelta):
            return super().lazy_block(name, start, base, raw)
        # All rows are there: they are read to one place, and computed on together.
        dtype = self.inner.tuned.infos[name].dtype
        size = itemsize(dtype)
        stored = Filled(dtype, raw[: count * size])
        into = memoryview(stored.raw)
        for low, high, at in places:
            part = into[(low - start) * size : (high - start) * size]
            self.inner.tuned.read(name, at * size, part)
        return LazyDelta(stored, base.stored)

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self.inner.files

    def check_unchanged(self) -> None:
        self.inner.check_unchanged()


class Resized(TensorSource):
    """A source some of whose tensors are said to have another shape; nothing of them is read."""

    def __init__(self, source: TensorSource, infos: Mapping[str, TensorInfo]) -> None:
        self._source, self.label = source, source.label
        self._infos = {**source.infos, **infos}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        self._source.read(name, start, buffer)

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self._source.files
