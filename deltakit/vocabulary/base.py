"""The base as a merge reads it, every embedding in the output's vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.dtypes import itemsize, torch_dtype
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
    the mean of the base's tokens, and one whose row is lent that. `tensors` names where each row
    comes from.
    """

    def __init__(
        self,
        base: TensorSource,
        infos: Mapping[str, TensorInfo],
        tensors: Mapping[str, Rows],
        donors: Donors,
    ) -> None:
        self._base, self.label = base, base.label
        self._infos = {**base.infos, **infos}
        self._tensors, self._donors = tensors, donors
        self._means: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self._base.files

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        import torch

        rows = self._tensors.get(name)
        if rows is None:
            self._base.read(name, start, buffer)
            return
        info = self._infos[name]
        size, width = itemsize(info.dtype), width_of(info)
        begin, end = start // size, (start + len(buffer)) // size
        for low, high, at in rows.places(begin, end, width):
            part = buffer[(low - begin) * size : (high - begin) * size]
            self._base.read(name, at * size, part)
        for low, high, row, offset in rows.pieces(begin, end, width):
            if rows.base[row] == NONE:
                made = self._made(name, rows, row, offset, high - low, width)
                part = buffer[(low - begin) * size : (high - begin) * size]
                part[:] = memoryview(made.view(torch.uint8).numpy())

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        return None if name in self._tensors else self._base.place(name, start)

    def _made(self, name: str, rows: Rows, row: int, offset: int, count: int, width: int) -> Tensor:
        """Return `count` entries of a run that the base lacks, flat, in the base's dtype."""
        import torch

        lent, dtype = rows.lent.get(row), torch_dtype(self._infos[name].dtype)
        if lent is not None:
            return lent.block(name, offset, offset + count, width, dtype)
        models = self._donors.models
        having = [
            i for i, theirs in enumerate(rows.experts) if models[i] is not None and theirs[row] >= 0
        ]
        if not having:
            at = torch.arange(offset, offset + count) % width
            return self._mean(name, rows, width)[at].to(dtype)
        total = torch.zeros(count, dtype=torch.float64)
        for expert, share in zip(having, self._donors.shares(name, having), strict=True):
            model = models[expert]
            assert model is not None
            start = int(rows.experts[expert][row]) * width + offset
            raw = torch.empty(count * 8, dtype=torch.uint8)
            total += model.block(name, start, start + count, raw).double() * share
        return total.to(dtype)

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
                        block = self._base.block(name, low * width, high * width, raw)
                        kept = some[(some >= low) & (some < high)] - low
                        total += block.view(-1, width).double()[kept].sum(dim=0)
                self._means[name] = total / max(1, len(known))
            return self._means[name]
