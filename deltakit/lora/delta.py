"""A LoRA as one expert of a merge: its delta to a base, made block by block from its factors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deltakit.delta_source import DeltaSource
from deltakit.errors import BadValue
from deltakit.lora.adapter import Adapter
from deltakit.lora.dora import Dora
from deltakit.lora.fit import Fit, fit
from deltakit.lora.low_rank import LowRank, add_part
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from deltakit.provenance import ModelTable
    from deltakit.tensors.reader import SafetensorsFile

Adding = Callable[["Tensor", int, "Tensor"], None]  # out, start, base: adds a block of the delta

MOST_KEPT = 4  # modules whose factors stay in memory; the engine goes through them in order


class AdapterDelta(DeltaSource):
    """The delta of an adapter, seen from its base; formed in blocks, never whole.

    >>> delta = AdapterDelta(open_adapter("./lora-a"))                   # doctest: +SKIP
    >>> delta.check_base(Checkpoint.open("./base"))                      # doctest: +SKIP
    []

    scaling * B A of every adapted module in float32, its biases, and for a parameter kept whole
    what it differs by from the base's. DoRA is baked exactly. The bits of an entry do not depend
    on the blocks asked for. `check_base` must come first; it raises what `fit` raises.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.label = adapter.label
        self._fit: Fit | None = None
        self._base: TensorSource | None = None
        self._kept: dict[str, Adding] = {}
        self._lock = threading.Lock()

    def check_base(self, base: TensorSource) -> list[str]:
        self._fit, self._base = fit(self.adapter, base), base
        self._kept.clear()
        return list(self._fit.notes)

    def changes(self, name: str) -> bool:
        return name in self._fitted.parameters

    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        out.zero_()
        if self.changes(name):
            self._adding(name, out.dtype)(out, start, base)

    @property
    def made_against(self) -> ModelTable | None:
        return self.adapter.base

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self.adapter.source.files

    def check_unchanged(self) -> None:
        self.adapter.check_unchanged()

    @property
    def _fitted(self) -> Fit:
        if self._fit is None:
            raise BadValue("the adapter was not fitted to a base yet", where=self.label)
        return self._fit

    def _adding(self, name: str, dtype: torch.dtype) -> Adding:
        """Return what adds a block of this parameter's delta, its factors read and at hand."""
        with self._lock:
            if name not in self._kept:
                while len(self._kept) >= MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[name] = self._make(name, dtype)
            return self._kept[name]

    def _make(self, name: str, dtype: torch.dtype) -> Adding:
        steps: list[Adding] = []
        found = self._fitted
        if name in found.weights:
            part, turned = found.weights[name]
            factors = self.adapter.factors(part.module)
            a, b = factors.a.to(dtype), factors.b.to(dtype)
            product = LowRank(a.T, b.T) if turned else LowRank(b, a)
            magnitude = self.adapter.magnitude(part.module)
            if magnitude is not None:
                dora = Dora(product, magnitude.to(dtype), turned=turned)
                return self._dora(name, product, dora)
            steps.append(lambda out, start, base: product.add_to(out, start))
        if name in found.biases:
            bias = self.adapter.bias(found.biases[name].module)
            assert bias is not None
            steps.append(lambda out, start, base: add_part(out, start, bias, 0))
        if name in found.whole:
            steps.append(self._whole(name))
        if name in found.rows:
            steps.append(self._rows(name))

        def add(out: Tensor, start: int, base: Tensor) -> None:
            for step in steps:
                step(out, start, base)

        return add

    def _whole(self, name: str) -> Adding:
        import torch

        tensor = self.adapter.whole[self._fitted.whole[name]]

        def add(out: Tensor, start: int, base: Tensor) -> None:
            raw = torch.empty(8 * out.numel(), dtype=torch.uint8)
            kept = self.adapter.source.block(tensor, start, start + out.numel(), raw)
            out.add_(self.adapter.checked(kept.to(out.dtype), tensor)).sub_(base)

        return add

    def _rows(self, name: str) -> Adding:
        rows = self.adapter.rows[self._fitted.rows[name]]
        values = self.adapter.read(rows.tensor)  # (rows, columns)
        columns = values.shape[1]

        def add(out: Tensor, start: int, base: Tensor) -> None:
            for row, kept in zip(rows.indices, values, strict=True):
                low = max(row * columns, start)
                high = min((row + 1) * columns, start + out.numel())
                if low < high:
                    part = kept[low - row * columns : high - row * columns]
                    out[low - start : high - start] += part - base[low - start : high - start]

        return add

    def _dora(self, name: str, product: LowRank, dora: Dora) -> Adding:
        import torch

        base_source, found = self._base, self._fitted
        assert base_source is not None
        carried = self.adapter.whole[found.whole[name]] if name in found.whole else None
        source, tensor = (base_source, name) if carried is None else (self.adapter.source, carried)

        def rows(first: int, last: int) -> Tensor:
            start, stop = first * product.columns, last * product.columns
            raw = torch.empty((stop - start) * 8, dtype=torch.uint8)
            return source.block(tensor, start, stop, raw).to(product.left.dtype)

        def add(out: Tensor, start: int, base: Tensor) -> None:
            dora.add_to(out, start, rows)
            out.sub_(base)

        return add
