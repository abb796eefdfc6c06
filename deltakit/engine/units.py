"""The pieces a merge is cut into: flat ranges of tensors, in the order they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from deltakit.engine.plan import Plan
from deltakit.engine.shards import Shard
from deltakit.tensors.writer import layout

_AHEAD = 3  # parameters: of different sizes, so that one look may take as long as several others


@dataclass(frozen=True)
class Unit:
    """Flat entries start..stop of one tensor; doing it twice writes the same bytes twice."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Look:
    """What a strategy asks of one expert's whole parameter, or of its whole group (None)."""

    name: str | None
    group: int  # among the plan's
    expert: int


def units(plan: Plan, shards: Sequence[Shard]) -> Iterator[Unit | Look]:
    """Yield every unit of some shards of a plan, shard after shard, in file order.

    Looks come some parameters ahead of the units that need them, so that a thread that finds the
    last look of a parameter still going on has the next parameters' to do, and need not wait.
    """
    tensors = [(name, info) for shard in shards for name, info in layout(shard.infos)]
    looks = [list(_looks(plan, name)) for name, _ in tensors]
    for number, group in enumerate(plan.groups):
        if any(method.looks == "model" for method in group.methods):
            yield from (Look(None, number, expert) for expert in range(len(plan.experts)))
    yield from chain.from_iterable(looks[:_AHEAD])
    for number, (name, info) in enumerate(tensors):
        yield from chain.from_iterable(looks[number + _AHEAD : number + _AHEAD + 1])
        step = info.numel if plan.at_once(name) else plan.step(name)
        for start in range(0, max(1, info.numel), step):
            yield Unit(name, start, min(start + step, info.numel))


def _looks(plan: Plan, name: str) -> Iterator[Look]:
    if name not in plan.effective or not plan.base.infos[name].numel or plan.at_once(name):
        return
    if plan.of(name).method.looks == "tensor":
        yield from (Look(name, 0, expert) for expert in range(len(plan.experts)))
