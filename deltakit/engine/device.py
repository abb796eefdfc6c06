"""A second device, as a GPU, that sums and rounds what the processor reads and writes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deltakit.combination import Combination
from deltakit.drawn import Drawn
from deltakit.engine.rounding import round_in_torch
from deltakit.errors import BadValue, some
from deltakit.kernels import Found
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.stored import Entries, Filled, in_memory
from deltakit.strategies import Combining, Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KINDS = ("cuda", "mps")


class Device:
    """Where combinations are computed: the same formulas, block by block.

    Blocks are read into pinned memory and copied while other threads compute; masks and cuts come
    from the processor, so they are the same bit for bit. Only strategies that end in a combination
    have a formula to send. Raises BadValue for a device that torch does not have here.
    """

    def __init__(self, name: str, methods: Sequence[Method], *, wide: bool = False) -> None:
        import torch

        check_methods(name, methods)
        kind = name.partition(":")[0]
        if kind not in KINDS:
            raise BadValue("no such device", expected=", ".join(KINDS), got=name)
        if wide and kind == "mps":
            raise BadValue(
                "mps has no float64",
                where=f"--device {name}",
                remedy="leave out --device, or --accumulate",
            )
        backend = torch.cuda if kind == "cuda" else torch.backends.mps
        if not backend.is_available():
            raise BadValue(
                f"torch has no {kind} device here",
                remedy="leave out --device, or install a build of torch for it",
            )
        count = torch.cuda.device_count() if kind == "cuda" else 1
        every = [kind, *(f"{kind}:{number}" for number in range(count))]
        if name not in every:
            raise BadValue("torch has no such device here", expected=", ".join(every), got=name)
        self.device = torch.device(name)
        self._own = threading.local()

    @property
    def pins(self) -> bool:
        """Whether blocks are to be read into memory that it copies from by itself."""
        return self.device.type == "cuda"

    def add_and_round(
        self, base: LazyDelta, merged: Combination, deltas: LazyDeltas, out: Filled
    ) -> Found:
        """Do what `rounding.add_and_round` does, there."""
        with self._stream():
            return add_and_round_on(self.device, base, merged, deltas, out.tensor)

    def _stream(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of this thread's own queue of work, where the device has queues."""
        import torch

        if self.device.type != "cuda":
            return contextlib.nullcontext()
        stream = getattr(self._own, "stream", None)
        if stream is None:
            stream = self._own.stream = torch.cuda.Stream(self.device)
        return torch.cuda.stream(stream)


def check_methods(name: str, methods: Sequence[Method]) -> None:
    """Raise BadValue naming the strategies that have no formula to send to a device."""
    others = {type(m.strategy).__name__ for m in methods if not isinstance(m.strategy, Combining)}
    if others:
        raise BadValue(
            f"computed on the processor only: {some(sorted(others))}",
            where=f"--device {name}",
            remedy="leave out --device",
        )


def add_and_round_on(
    device: torch.device,
    base: LazyDelta,
    merged: Combination,
    deltas: LazyDeltas,
    out: Tensor,
) -> Found:
    """Move what is stored, combine, add to the base, round, and bring the result to `out`."""
    import torch

    there = _Moved(device)
    result = torch.empty(out.shape, dtype=out.dtype, device=device)
    moved = Combination(there.deltas(merged.deltas), merged.formula).tensor
    found = round_in_torch(there.delta(base), moved, there.deltas(deltas), result)
    out.copy_(result)
    return found


class _Moved:
    """Entries on a device, each copied there once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: dict[int, Tensor] = {}

    def deltas(self, lazy: LazyDeltas) -> LazyDeltas:
        return LazyDeltas([self.delta(each) for each in lazy.each], lazy.shape, lazy.dtype)

    def delta(self, delta: LazyDelta) -> LazyDelta:
        base = None if delta.base is None else self._entries(delta.base)
        kept = delta.kept.tensor if isinstance(delta.kept, Drawn) else delta.kept
        kept = None if kept is None else self._entries(kept)
        return replace(delta, stored=self._entries(delta.stored), base=base, kept=kept)

    def _entries(self, entries: Entries) -> Tensor:
        if id(entries) not in self._known:
            here = in_memory(entries)
            self._known[id(entries)] = here.to(self._device, non_blocking=True)
        return self._known[id(entries)]
