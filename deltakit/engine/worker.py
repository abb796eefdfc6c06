"""What each thread does with a piece of work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from deltakit.engine.blocks import Buffers, StackReader
from deltakit.engine.output import Output
from deltakit.engine.plan import Plan
from deltakit.engine.report import Tally
from deltakit.engine.rounding import add_and_round, cast, refuse_copied, refuse_nonfinite
from deltakit.engine.units import Unit
from deltakit.tensors.dtypes import DTYPES

if TYPE_CHECKING:
    from torch import Tensor


class Worker:
    """Merges or copies a unit into the output; shared by all threads, with buffers for each."""

    def __init__(
        self,
        plan: Plan,
        output: Output,
        tally: Tally,
        allow_nonfinite: bool,
        progress: Callable[[str, int], None] | None,
    ) -> None:
        self._plan, self._output, self._tally = plan, output, tally
        self._allow_nonfinite, self._progress = allow_nonfinite, progress
        self._merged = frozenset(plan.merged)
        self._reader = StackReader(plan)
        self._own = threading.local()

    def do(self, unit: Unit) -> None:
        """Bring one unit from the inputs to the output."""
        buffers = getattr(self._own, "buffers", None)
        if buffers is None:
            buffers = self._own.buffers = Buffers(len(self._plan.experts), self._plan.block)
        data = (self._merge if unit.name in self._merged else self._copy)(unit, buffers)
        info = self._plan.output_info(unit.name)
        self._output.write(unit.name, unit.start * DTYPES[info.dtype][0] // 8, data)
        if self._progress:
            self._progress(unit.name, len(data))

    def _merge(self, unit: Unit, buffers: Buffers) -> memoryview:
        stack = self._reader.read(unit.name, unit.start, unit.stop, buffers)
        merged = self._plan.strategy.merge(stack)  # (n,)
        if self._plan.recipe.scale != 1.0:
            merged = merged * self._plan.recipe.scale
        info = self._plan.output_info(unit.name)
        assert stack.base is not None
        result = add_and_round(stack.base, merged, info.dtype)
        if not self._allow_nonfinite:
            refuse_nonfinite(result, stack, merged, self._plan.recipe)
        data = _bytes(result)
        self._tally.add(unit.name, stack.deltas, merged, self._changed(unit, data, merged, buffers))
        return data

    def _changed(self, unit: Unit, data: memoryview, merged: Tensor, buffers: Buffers) -> bool:
        """Tell whether a block differs from the base's, whose bytes are still in the buffer."""
        same_dtype = self._plan.output_info(unit.name) == self._plan.base.infos[unit.name]
        if same_dtype:
            return data != memoryview(buffers.raw.numpy())[: len(data)]
        return bool(merged.any())

    def _copy(self, unit: Unit, buffers: Buffers) -> memoryview:
        info = self._plan.base.infos[unit.name]
        out = self._plan.output_info(unit.name)
        if out.dtype != info.dtype:
            block = self._plan.base.block(unit.name, unit.start, unit.stop, buffers.raw)
            result = cast(block, out.dtype)
            if not self._allow_nonfinite:
                refuse_copied(result, block, unit.name, unit.start, self._plan.recipe)
            return _bytes(result)
        bits = DTYPES[info.dtype][0]  # below 8 for dtypes that torch cannot hold
        first, last = unit.start * bits // 8, unit.stop * bits // 8
        data = memoryview(buffers.raw.numpy())[: last - first]
        self._plan.base.read(unit.name, first, data)
        return data


def _bytes(flat: Tensor) -> memoryview:
    import torch

    return memoryview(flat.view(torch.uint8).numpy())
