"""What each thread does with a piece of work."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deltakit.combination import Combination
from deltakit.dtypes import DTYPES
from deltakit.engine.at_once import AtOnce
from deltakit.engine.blocks import Buffers, StackReader, room_bytes
from deltakit.engine.device import Device
from deltakit.engine.fold import Fold
from deltakit.engine.heap import Heap
from deltakit.engine.output import Output
from deltakit.engine.plan import Plan
from deltakit.engine.report import Tally
from deltakit.engine.rounding import (
    add_and_round,
    cast,
    refuse_copied,
    refuse_deltas,
    refuse_result,
)
from deltakit.engine.units import Look, Unit
from deltakit.lazy import LazyDelta
from deltakit.stored import Filled

if TYPE_CHECKING:
    import numpy as np


class Worker:
    """Merges or copies a unit into the output; shared by all threads, with buffers for each."""

    def __init__(
        self,
        plan: Plan,
        output: Output,
        tally: Tally,
        allow_nonfinite: bool,
        fold: Fold | None = None,
        device: Device | None = None,
    ) -> None:
        self._plan, self._output, self._tally = plan, output, tally
        self._allow_nonfinite, self._fold, self._device = allow_nonfinite, fold, device
        self._reader = StackReader(plan)
        self._room_bytes = room_bytes(plan)
        self._own = threading.local()
        self._heap = None if plan.for_kernels else Heap()

    def do(self, piece: Unit | Look) -> None:
        """Bring one unit from the inputs to the output, or find what later units will need."""
        if isinstance(piece, Look):
            self._look(piece)
        else:
            self._bring(piece)
        if self._heap is not None:
            self._heap.work_done()

    def _bring(self, piece: Unit) -> None:
        buffers = self._buffers()
        info = self._plan.output_info(piece.name)
        bits = DTYPES[info.dtype][0]  # below 8 for dtypes that torch cannot hold
        first, last = piece.start * bits // 8, piece.stop * bits // 8
        room = buffers.room(last - first)
        out = room.take(last - first, self._output.offset(piece.name, first))  # uint8 (bytes,)
        (self._merge if piece.name in self._plan.effective else self._copy)(piece, buffers, out)
        room.hand_over(self._output.write(piece.name, first, memoryview(out)))

    def _look(self, look: Look) -> None:
        if look.name is not None:
            method = self._plan.of(look.name).method
            method.look(self._reader.whole(look.name), look.expert)
            return
        for method in self._plan.groups[look.group].methods:
            method.look(self._reader.models[look.group], look.expert)

    def _buffers(self) -> Buffers:
        buffers: Buffers | None = getattr(self._own, "buffers", None)
        if buffers is None:
            plan = self._plan
            pins = self._device is not None and self._device.pins
            buffers = Buffers(len(plan.experts), plan.scratch.block, *self._room_bytes, pins=pins)
            self._own.buffers = buffers
        return buffers

    def _at_once(self) -> AtOnce:
        at_once: AtOnce | None = getattr(self._own, "at_once", None)
        if at_once is None:
            plan = self._plan
            at_once = self._own.at_once = AtOnce(len(plan.experts), plan.scratch.at_once)
        return at_once

    def _merge(self, unit: Unit, buffers: Buffers, out: np.ndarray) -> None:
        if not self._plan.at_once(unit.name):
            self._merge_block(unit, buffers, out)
        elif not self._merge_at_once(unit, buffers, out):
            step, size = self._plan.step(unit.name), len(out) // unit.stop
            for start in range(0, unit.stop, step):
                stop = min(start + step, unit.stop)
                part = out[start * size : stop * size]
                self._merge_block(Unit(unit.name, start, stop), buffers, part)

    def _merge_at_once(self, unit: Unit, buffers: Buffers, out: np.ndarray) -> bool:
        """Merge a whole parameter in one pass; False where it has to be merged by blocks."""
        stack = self._reader.read(unit.name, unit.start, unit.stop, buffers)
        effective = self._plan.of(unit.name)
        result = Filled(self._plan.output_info(unit.name).dtype, out)
        found = self._at_once().add_and_round(stack, effective.method, effective.scale, result)
        if found is not None:
            *squares, square = found.squares
            self._tally.add(unit.name, squares, square, found.changed)
        return found is not None

    def _merge_block(self, unit: Unit, buffers: Buffers, out: np.ndarray) -> None:
        stack = self._reader.read(unit.name, unit.start, unit.stop, buffers)
        effective = self._plan.of(unit.name)
        merged = self._fold.merge(stack) if self._fold else effective.method.merged(stack)  # (n,)
        if isinstance(merged, Combination):
            merged = merged.times(effective.scale)
        elif effective.scale != 1.0:
            merged = merged * effective.scale
        result = Filled(self._plan.output_info(unit.name).dtype, out)
        base = stack.stored_base
        assert isinstance(base, LazyDelta)
        if self._device is not None and isinstance(merged, Combination):
            found = self._device.add_and_round(base, merged, stack.lazy, result)
        else:
            found = add_and_round(base, merged, stack.lazy, result)
        *squares, square = found.squares
        if not self._allow_nonfinite:
            refuse_deltas(stack, squares)
            if not found.finite:
                refuse_result(result.tensor, stack, self._plan.recipe)
        self._tally.add(unit.name, squares, square, found.changed)

    def _copy(self, unit: Unit, buffers: Buffers, out: np.ndarray) -> None:
        info = self._plan.base.infos[unit.name]
        kind = self._plan.output_info(unit.name).dtype
        if kind == info.dtype:
            first = unit.start * DTYPES[kind][0] // 8
            self._plan.base.read(unit.name, first, memoryview(out))
            return
        block = self._plan.base.stored(unit.name, unit.start, unit.stop, buffers.base).tensor
        result = Filled(kind, out).tensor
        cast(block, result)
        if not self._allow_nonfinite:
            refuse_copied(result, block, unit.name, unit.start, self._plan.recipe)
