"""Reading one block of every expert, and whole-tensor facts, into reused buffers."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from deltakit.engine.groups import Group
from deltakit.engine.plan import Plan
from deltakit.engine.room import ROOMS, Room
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.strategies._stack import Stack, Whole
from deltakit.tensors.dtypes import itemsize, working_dtype

if TYPE_CHECKING:
    from torch import Tensor

LOOK_BLOCK = 1 << 18  # fixed, so that a sum over a tensor does not depend on the block size
_LAZY_BLOCK = 1 << 20  # what is not computed may be long
_SAMPLE = 4096  # entries at each place of a sample
_PLACES, _PLACES_OF_MODEL = 16, 256


class Buffers:
    """A thread's own memory: blocks of the base and of the experts as stored, and output blocks.

    Allocated once, because fresh temporaries cost more in page faults than the arithmetic on them.
    """

    def __init__(self, experts: int, block: int, room: int = 0, *, pins: bool = False) -> None:
        import torch

        self.base, *self.experts = (
            torch.empty(block * 8, dtype=torch.uint8, pin_memory=pins) for _ in range(1 + experts)
        )
        self._rooms = [Room(room) for _ in range(ROOMS)] if room else []

    def room(self) -> Room:
        """Return the output block that was handed over longest ago."""
        self._rooms.append(self._rooms.pop(0))
        return self._rooms[-1]


class StackReader:
    """Makes the stack of any block of any parameter, with facts about the whole at hand."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._own = threading.local()
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
                lazy=partial(self._lazy_blocks_of_model, group),
                sample=partial(self._sample_of_model, group, starts),
                parts=sizes,
            )
            self.models.append(model)
            self._places |= {n: (model, at) for n, at in zip(group.names, starts, strict=False)}

    def read(self, name: str, start: int, stop: int, buffers: Buffers) -> Stack:
        """Return the stack of flat entries start..stop, in the worker's buffers."""
        dtype = working_dtype(self._plan.base.infos[name].dtype)
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
                    lazy=partial(self._lazy_blocks, name),
                    sample=partial(self._sample, name),
                    base=lambda: self._bases(name),
                )
            return self._wholes[name]

    def _base_block(self, name: str, start: int, stop: int, buffers: Buffers) -> LazyDelta:
        return LazyDelta(self._plan.base.stored(name, start, stop, buffers.base))

    def _look(self, name: str, expert: int, start: int, stop: int) -> LazyDelta:
        """Return entries of one expert's delta, in a buffer of this thread that is used again."""
        buffers = self._look_buffers()
        base = self._base_block(name, start, stop, buffers)
        source = self._plan.experts[expert].source
        return source.lazy_block(name, start, base, buffers.experts[0])

    def _look_buffers(self) -> Buffers:
        buffers: Buffers | None = getattr(self._own, "buffers", None)
        if buffers is None:
            buffers = self._own.buffers = Buffers(1, _LAZY_BLOCK)
        return buffers

    def _bases(self, name: str) -> Iterator[Tensor]:
        """Yield the base's parameter in blocks of the same sizes, in that same buffer."""
        numel = self._plan.base.infos[name].numel
        for start in range(0, numel, LOOK_BLOCK):
            stop = min(start + LOOK_BLOCK, numel)
            yield self._base_block(name, start, stop, self._look_buffers()).tensor

    def _lazy_blocks(self, name: str, expert: int, block: int = _LAZY_BLOCK) -> Iterator[LazyDelta]:
        """Yield one expert's delta of a parameter, block after block."""
        numel = self._plan.base.infos[name].numel
        for start in range(0, numel, block):
            yield self._look(name, expert, start, min(start + block, numel))

    def _blocks(self, name: str, expert: int) -> Iterator[Tensor]:
        return (delta.tensor for delta in self._lazy_blocks(name, expert, LOOK_BLOCK))

    def _sample(self, name: str, expert: int) -> Iterator[LazyDelta]:
        """Yield stretches of one expert's delta from all over a parameter."""
        numel = self._plan.base.infos[name].numel
        for at in _places(numel, _PLACES):
            yield self._look(name, expert, at, min(at + _SAMPLE, numel))

    def _lazy_blocks_of_model(self, group: Group, expert: int) -> Iterator[LazyDelta]:
        return chain.from_iterable(self._lazy_blocks(name, expert) for name in group.names)

    def _blocks_of_model(self, group: Group, expert: int) -> Iterator[Tensor]:
        return chain.from_iterable(self._blocks(name, expert) for name in group.names)

    def _sample_of_model(
        self, group: Group, starts: Sequence[int], expert: int
    ) -> Iterator[LazyDelta]:
        for at in _places(starts[-1], _PLACES_OF_MODEL):
            place = bisect_right(starts, at) - 1
            name, start = group.names[place], at - starts[place]
            stop = min(start + _SAMPLE, self._plan.base.infos[name].numel)
            yield self._look(name, expert, start, stop)


def _places(numel: int, count: int) -> Sequence[int]:
    return [place * numel // count for place in range(count)]


def room_bytes(plan: Plan) -> int:
    """Return the bytes of the largest output block."""
    infos = [plan.output_info(name) for name in plan.base.infos]
    return max(min(plan.block, info.numel) * max(1, itemsize(info.dtype)) for info in infos)
