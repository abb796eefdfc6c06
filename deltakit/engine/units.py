"""The pieces a merge is cut into: flat ranges of tensors, in the order they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deltakit.engine.plan import Plan
from deltakit.tensors.writer import layout


@dataclass(frozen=True)
class Unit:
    """Flat entries start..stop of one tensor; doing it twice writes the same bytes twice."""

    name: str
    start: int
    stop: int


def units(plan: Plan) -> Iterator[Unit]:
    """Yield every unit of a plan, shard after shard, in file order."""
    for shard in plan.shards:
        for name, info in layout(shard.infos):
            for start in range(0, max(1, info.numel), plan.block):
                yield Unit(name, start, min(start + plan.block, info.numel))
