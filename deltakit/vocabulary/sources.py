"""A base and its experts as a merge reads them, every embedding in the output's vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltakit.delta_source import DeltaSource, ModelDelta
from deltakit.lazy import LazyDelta
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.dtypes import itemsize, torch_dtype
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary.rows import NONE, Rows
from deltakit.vocabulary.tensors import width_of

if TYPE_CHECKING:
    from torch import Tensor

    from deltakit.tensors.reader import SafetensorsFile

_BLOCK = 1 << 20  # entries read at once for the mean of all rows


@dataclass(frozen=True)
class Donors:
    """Whose rows make a row that the base lacks: one model for each expert, None for a delta."""

    models: Sequence[TensorSource | None]
    weights: Mapping[str, Sequence[float]]  # of each tensor that is merged, one an expert

    def shares(self, name: str, having: Sequence[int]) -> list[float]:
        """Return what each of these experts gives: by positive weight, equally if none has one."""
        given = self.weights.get(name)
        weights = [max(0.0, given[expert]) if given else 1.0 for expert in having]
        total = sum(weights)
        return [w / total for w in weights] if total > 0 else [1 / len(having)] * len(having)


class MatchedBase(TensorSource):
    """The base with the output's rows.

    A row that the base lacks is the mean of the rows of the experts that have its token, by their
    weights, computed in float64 and rounded once to the base's dtype; a token that nobody has gets
    the mean of the base's tokens. `tensors` names where each row comes from.
    """

    def __init__(
        self,
        base: Checkpoint,
        infos: Mapping[str, TensorInfo],
        tensors: Mapping[str, Rows],
        donors: Donors,
    ) -> None:
        self.checkpoint, self.label = base, base.label
        self._infos = {**base.infos, **infos}
        self._tensors, self._donors = tensors, donors
        self._means: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def folder(self) -> Path:
        """The folder that holds the base's config and tokenizer."""
        return self.checkpoint.folder

    def config(self) -> dict[str, Any]:
        """Return the base's config.json."""
        return self.checkpoint.config()

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self.checkpoint.files

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        import torch

        rows = self._tensors.get(name)
        if rows is None:
            self.checkpoint.read(name, start, buffer)
            return
        info = self._infos[name]
        size, width = itemsize(info.dtype), width_of(info)
        begin, end = start // size, (start + len(buffer)) // size
        for low, high, at in rows.places(begin, end, width):
            part = buffer[(low - begin) * size : (high - begin) * size]
            self.checkpoint.read(name, at * size, part)
        for low, high, row, offset in rows.pieces(begin, end, width):
            if rows.base[row] == NONE:
                made = self._made(name, rows, row, offset, high - low, width)
                part = buffer[(low - begin) * size : (high - begin) * size]
                part[:] = memoryview(made.view(torch.uint8).numpy())

    def _made(self, name: str, rows: Rows, row: int, offset: int, count: int, width: int) -> Tensor:
        """Return `count` entries of a run that the base lacks, flat, in the base's dtype."""
        import torch

        models = self._donors.models
        having = [
            i for i, theirs in enumerate(rows.experts) if models[i] is not None and theirs[row] >= 0
        ]
        if not having:
            at = torch.arange(offset, offset + count) % width
            return self._mean(name, rows, width)[at].to(torch_dtype(self._infos[name].dtype))
        total = torch.zeros(count, dtype=torch.float64)
        for expert, share in zip(having, self._donors.shares(name, having), strict=True):
            model = models[expert]
            assert model is not None
            start = int(rows.experts[expert][row]) * width + offset
            raw = torch.empty(count * 8, dtype=torch.uint8)
            total += model.block(name, start, start + count, raw).double() * share
        return total.to(torch_dtype(self._infos[name].dtype))

    def _mean(self, name: str, rows: Rows, width: int) -> Tensor:
        """Return the mean row of the base's tokens, float64 (width,)."""
        import torch

        with self._lock:
            if name not in self._means:
                total = torch.zeros(width, dtype=torch.float64)
                step = max(1, _BLOCK // width)
                raw = torch.empty(step * width * 8, dtype=torch.uint8)
                known = torch.from_numpy(rows.base[rows.base != NONE]).sort().values
                for some in known.split(step):
                    first, last = int(some[0]), int(some[-1]) + 1
                    for low in range(first, last, step):
                        high = min(last, low + step)
                        block = self.checkpoint.block(name, low * width, high * width, raw)
                        kept = some[(some >= low) & (some < high)] - low
                        total += block.view(-1, width).double()[kept].sum(dim=0)
                self._means[name] = total / max(1, len(known))
            return self._means[name]


class MatchedDelta(DeltaSource):
    """An expert's delta with the output's rows: zero where it or the base has no such token.

    `seen` is the base as the expert itself knows it, with the expert's own number of rows.
    """

    def __init__(
        self, inner: DeltaSource, expert: int, seen: TensorSource, tensors: Mapping[str, Rows]
    ) -> None:
        self.inner, self.label, self.seen = inner, inner.label, seen
        self._expert, self._tensors = expert, tensors

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
        width = width_of(self.seen.infos[name])
        for low, high, at in rows.places(start, start + out.numel(), width, self._expert):
            part = slice(low - start, high - start)
            self.inner.block_into(out[part], name, at, base[part])

    def lazy_block(self, name: str, start: int, base: LazyDelta, raw: Tensor) -> LazyDelta:
        rows = self._tensors.get(name)
        if rows is None:
            return self.inner.lazy_block(name, start, base, raw)
        count, width = base.numel(), width_of(self.seen.infos[name])
        places = list(rows.places(start, start + count, width, self._expert))
        there = sum(high - low for low, high, _ in places)
        if there < count or not isinstance(self.inner, ModelDelta):
            return super().lazy_block(name, start, base, raw)
        # All rows are there: they are read to one place, and computed on together.
        dtype = torch_dtype(self.inner.tuned.infos[name].dtype)
        stored, size = raw[: count * dtype.itemsize], dtype.itemsize
        into = memoryview(stored.numpy())
        for low, high, at in places:
            part = into[(low - start) * size : (high - start) * size]
            self.inner.tuned.read(name, at * size, part)
        return LazyDelta(stored.view(dtype), base.stored)

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
