"""Reading one block of every expert, and whole-tensor facts, into reused buffers."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from deltakit.dtypes import itemsize, torch_dtype, widened
from deltakit.engine.groups import Group
from deltakit.engine.heap import Heap
from deltakit.engine.plan import Plan
from deltakit.engine.room import LARGE_ROOMS, ROOMS, SMALL, Room
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.stored import in_memory
from deltakit.strategies._stack import Stack
from deltakit.strategies._whole import LONG, SHORT, Together, Whole, stretches

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Buffers:
    """A thread's own memory: blocks of the base and of the experts as stored, and output blocks.

    Allocated once, because fresh temporaries cost more in page faults than the arithmetic on them.
    """

    def __init__(
        self, experts: int, block: int, room: int = 0, large: int = 0, *, pins: bool = False
    ) -> None:
        self.base, *self.experts = (_memory(block * 8, pins) for _ in range(1 + experts))
        most = max(room, large)
        self._rooms = [Room(most) for _ in range(LARGE_ROOMS if large else ROOMS)]
        self._small = [Room(min(most, SMALL)) for _ in range(ROOMS)]

    def room(self, nbytes: int) -> Room:
        """Return the output block that was handed over longest ago, of those of that size.

        Small tensors between large ones do not wait until these are written.
        """
        rooms = self._small if nbytes <= SMALL else self._rooms
        rooms.append(rooms.pop(0))
        return rooms[-1]


def _memory(nbytes: int, pins: bool) -> np.ndarray:
    """Return memory of so many bytes (uint8), from which a GPU can copy by itself if `pins`."""
    import numpy as np

    if not pins:
        return np.empty(nbytes, dtype=np.uint8)
    import torch

    pinned: np.ndarray = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return pinned


class StackReader:
    """Makes the stack of any block of any parameter, with facts about the whole at hand."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._own = threading.local()
        self._heap = None if plan.for_kernels else Heap()
        self._wholes: dict[str, Whole] = {}
        tasks = plan.recipe.tasks[-len(plan.experts) :]
        self._names = tuple(task.name for task in tasks)
        self.models: list[Whole] = []  # of each group: what its strategy sees as the model
        self._places: dict[str, tuple[Whole, int]] = {}  # of each parameter: model, start in it
        for group in plan.groups:
            sizes = [plan.base.infos[name].numel for name in group.names]
            starts = list(accumulate(sizes, initial=0))
            model = Whole(
                starts[-1],
                partial(self._blocks_of_model, group),
                together=Together(
                    len(plan.experts),
                    partial(self._lazy_blocks_of_model, group),
                    partial(self._sample_of_model, group, starts),
                    partial(self._most, group.names),
                ),
                parts=sizes,
            )
            self.models.append(model)
            self._places |= {n: (model, at) for n, at in zip(group.names, starts, strict=False)}

    def read(self, name: str, start: int, stop: int, buffers: Buffers) -> Stack:
        """Return the stack of flat entries start..stop, in the worker's buffers."""
        dtype = self._plan.working_dtype(name)
        model, model_start = self._places[name]
        base = self._base_block(name, start, stop, buffers)
        each = [
            expert.source.lazy_block(name, start, base, raw)
            for raw, expert in zip(buffers.experts, self._plan.experts, strict=True)
        ]
        return Stack(
            LazyDeltas(each, (stop - start,), dtype),
            self._plan.of(name).weights[-len(self._names) :],
            self._names,
            name,
            base,
            seed=self._plan.recipe.seed,
            start=start,
            fact=self._plan.facts.get(name),
            shape=self._plan.base.infos[name].shape,
            scores=self._plan.scores(name),
            depth=self._plan.depths[name],
            whole=self.whole(name),
            model=model,
            model_start=model_start,
        )

    def whole(self, name: str) -> Whole:
        """Return the facts about a parameter, the same object for every thread."""
        with self._lock:
            if name not in self._wholes:
                self._wholes[name] = Whole(
                    self._plan.base.infos[name].numel,
                    partial(self._blocks, name),
                    together=Together(
                        len(self._plan.experts),
                        partial(self._lazy_blocks, name),
                        partial(self._sample, name),
                        partial(self._most, [name]),
                    ),
                    base=lambda: self._bases(name),
                )
            return self._wholes[name]

    def _base_block(self, name: str, start: int, stop: int, buffers: Buffers) -> LazyDelta:
        stored = self._plan.base.stored(name, start, stop, buffers.base)
        dtype = self._plan.working_dtype(name)
        if dtype != widened(self._plan.base.infos[name].dtype):
            # Deltas are computed as wide as their base is.
            return LazyDelta(in_memory(stored).to(torch_dtype(dtype)))
        return LazyDelta(stored)

    def _look(self, name: str, experts: Sequence[int], start: int, stop: int) -> list[LazyDelta]:
        """Return entries of a few experts' deltas, in this thread's buffers, used again."""
        if self._heap is not None:
            self._heap.work_done()  # what is made of them may be as much as of merged blocks
        buffers = self._look_buffers()
        base = self._base_block(name, start, stop, buffers)
        return [
            self._plan.experts[expert].source.lazy_block(name, start, base, raw)
            for expert, raw in zip(experts, buffers.experts, strict=False)
        ]

    def _look_buffers(self) -> Buffers:
        buffers: Buffers | None = getattr(self._own, "buffers", None)
        if buffers is None:
            buffers = self._own.buffers = Buffers(len(self._plan.experts), LONG)
        return buffers

    def _bases(self, name: str) -> Iterator[LazyDelta]:
        """Yield the base's parameter in blocks of the same sizes, in that same buffer."""
        numel = self._plan.base.infos[name].numel
        for start in range(0, numel, LONG):
            stop = min(start + LONG, numel)
            yield self._base_block(name, start, stop, self._look_buffers())

    def _lazy_blocks(
        self, name: str, experts: Sequence[int], block: int
    ) -> Iterator[list[LazyDelta]]:
        """Yield a few experts' deltas of a parameter, block after block."""
        numel = self._plan.base.infos[name].numel
        for start in range(0, numel, block):
            yield self._look(name, experts, start, min(start + block, numel))

    def _blocks(self, name: str, expert: int) -> Iterator[Tensor]:
        return (delta.tensor for (delta,) in self._lazy_blocks(name, [expert], SHORT))

    def _sample(self, name: str, experts: Sequence[int]) -> Iterator[list[LazyDelta]]:
        """Yield stretches of a few experts' deltas from all over a parameter."""
        numel = self._plan.base.infos[name].numel
        for at, stop in stretches(numel):
            yield self._look(name, experts, at, min(stop, numel))

    def _most(self, names: Sequence[str], expert: int) -> int:
        """Return how many entries of one expert's delta may be other than 0, at most."""
        source, infos = self._plan.experts[expert].source, self._plan.base.infos
        return sum(source.most_values(name, infos[name].numel) for name in names)

    def _lazy_blocks_of_model(
        self, group: Group, experts: Sequence[int], block: int
    ) -> Iterator[list[LazyDelta]]:
        return chain.from_iterable(self._lazy_blocks(name, experts, block) for name in group.names)

    def _blocks_of_model(self, group: Group, expert: int) -> Iterator[Tensor]:
        return chain.from_iterable(self._blocks(name, expert) for name in group.names)

    def _sample_of_model(
        self, group: Group, starts: Sequence[int], experts: Sequence[int]
    ) -> Iterator[list[LazyDelta]]:
        for at, end in stretches(starts[-1]):
            place = bisect_right(starts, at) - 1
            name, first = group.names[place], starts[place]
            stop = min(end - first, self._plan.base.infos[name].numel)
            yield self._look(name, experts, at - first, stop)


def room_bytes(plan: Plan) -> tuple[int, int]:
    """Return the bytes of the largest output block, and of what is merged at once."""
    infos = [plan.output_info(name) for name in plan.base.infos]
    sizes = [(info.numel, max(1, itemsize(info.dtype))) for info in infos]
    block, at_once = plan.scratch.block, plan.scratch.at_once
    return (
        max(min(block, numel) * size for numel, size in sizes),
        at_once * max(size for _, size in sizes),
    )
