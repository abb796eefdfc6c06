"""Plan: everything a merge will do, checked whole before the first byte is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltakit.delta_source import is_merged, merged_names
from deltakit.engine.checks import (
    Expert,
    check_bases,
    check_common,
    check_draws,
    check_expert,
    check_map,
    check_one_precision,
    named_bases,
    notes_on_maps,
    open_maps,
)
from deltakit.engine.limits import LOOK_BYTES, Limits, entry_bytes
from deltakit.engine.shards import Shard, make_shards
from deltakit.errors import BadValue, some
from deltakit.importance import ImportanceMap
from deltakit.provenance import ModelTable
from deltakit.recipe import Recipe
from deltakit.strategies import Method, depths
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.trim import MOST_HELD

if TYPE_CHECKING:
    from torch import Tensor

# Bytes read and written a second and thread, order of magnitude (benchmarks/merge_speed.py).
_RATES = {"nothing": 0.8e9, "tensor": 0.3e9, "model": 0.25e9}
_SVD_WORK, _SVD_RATE = 25, 2e10  # operations of a thin SVD for each m n min(m, n), and a second


@dataclass(frozen=True)
class Plan:
    """A merge that will not be refused half-way: what is read, computed and written."""

    recipe: Recipe
    base: Checkpoint
    experts: Sequence[Expert]
    strategy: Method
    shards: Sequence[Shard]
    merged: Sequence[str]  # parameters that some expert changes, sorted
    facts: Mapping[str, Any] = field(repr=False)  # what strategy.prepare found, by parameter
    maps: Sequence[ImportanceMap]  # one a task, where the strategy needs them
    depths: Mapping[str, float] = field(repr=False)  # of each merged parameter, 0 to 1
    notes: Sequence[str]
    threads: int
    block: int  # entries
    looked: int  # bytes a thread holds while it looks at a whole tensor

    @property
    def bytes_out(self) -> int:
        """Bytes of tensors written."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def bytes_in(self) -> int:
        """Bytes read once through: the base, and each expert where it changes something.

        A strategy that looks at whole tensors first reads more than once.
        """
        base = sum(info.nbytes for info in self.base.infos.values())
        changed = sum(
            self.base.infos[name].nbytes
            for expert in self.experts
            for name in self.merged
            if expert.source.changes(name)
        )
        return base + changed

    @property
    def memory(self) -> int:
        """Upper estimate of the scratch memory in bytes: what each thread's block and look need."""
        entry = entry_bytes(len(self.experts), self.strategy.unit == "tensor")
        return self.threads * (self.block * entry + self.looked)

    @property
    def seconds(self) -> float:
        """Rough time estimate in seconds."""
        moved = (self.bytes_in + self.bytes_out) / _RATES[self.strategy.looks]
        shapes = [self.base.infos[name].shape for name in self.merged]
        factored = sum(m * n * min(m, n) for m, n in (s for s in shapes if len(s) == 2))
        if self.strategy.strategy.family == "matrix":
            moved += factored * len(self.experts) * _SVD_WORK / _SVD_RATE
        return moved / self.threads

    def step(self, name: str) -> int:
        """Return how many entries of a tensor are worked on at a time: as its strategy allows."""
        if self.strategy.unit == "element" or name not in self.depths:
            return self.block
        info = self.base.infos[name]
        if self.strategy.unit == "tensor":
            return max(1, info.numel)
        row = row_length(info)
        return max(1, row, self.block // max(1, row) * row)

    def scores(self, name: str) -> tuple[Tensor, ...]:
        """Return each task's importance of a parameter; 1 for all where no map scores it."""
        import torch

        if not self.maps or not any(name in found for found in self.maps):
            return tuple(torch.ones(()) for _ in self.maps)
        return tuple(found[name] for found in self.maps)

    def output_info(self, name: str) -> TensorInfo:
        return output_info(self.base.infos[name], self.recipe.dtype)


def output_info(info: TensorInfo, dtype: str | None) -> TensorInfo:
    """Return a tensor's dtype and shape in the output: integers keep theirs."""
    return TensorInfo(dtype, info.shape) if dtype and is_merged(info) else info


def make_plan(
    recipe: Recipe,
    base: Checkpoint,
    experts: Sequence[Expert],
    *,
    base_table: ModelTable | None = None,
    limits: Limits | None = None,
) -> Plan:
    """Check a merge whole and return its plan; reads headers, and importance maps' few numbers.

    `experts` stand for `recipe.tasks`, in that order. `base_table` is what is known of the base;
    without it the base is hashed where an artifact was made against a fingerprint. Raises what is
    wrong: NamesDiffer, ShapeMismatch, DtypeMismatch, WrongBase, BadValue, UnknownName.
    """
    recipe = recipe.checked()
    strategy = recipe.make_method()
    notes: list[str] = []
    for expert in experts:
        notes += check_expert(expert, base)
        check_draws(strategy, recipe, expert)
    maps = open_maps(strategy, experts)
    if base_table is None and named_bases(recipe, experts, maps):
        base_table = ModelTable(base.infos, base.digests())
    if base_table is not None:
        recipe = check_bases(recipe, experts, base, base_table)
    names = merged_names(base.infos)
    merged = [name for name in names if any(e.source.changes(name) for e in experts)]
    if not merged:
        raise BadValue(
            "nothing to merge: no task changes any parameter",
            where=some([expert.name for expert in experts]),
            remedy="check that the tasks are fine-tunes of this base",
        )
    check_one_precision(strategy, base, merged)
    for expert, found in zip(experts, maps, strict=False):
        check_map(found, base, base_table, f"the importance map of task {expert.name!r}")
    notes += notes_on_maps(experts, maps)
    check_common(experts, maps, base, merged)
    facts = strategy.prepare(maps, names) if maps else {}
    largest = max(base.infos[name].numel for name in merged)
    least = {
        "element": 0,
        "row": max(row_length(base.infos[name]) for name in merged),
        "tensor": largest,
    }[strategy.unit]
    looked = 0 if strategy.looks == "nothing" else min(largest, MOST_HELD) * LOOK_BYTES
    entry = entry_bytes(len(experts), strategy.unit == "tensor")
    threads, block = (limits or Limits()).settle(entry, largest, looked, least)
    infos = {name: output_info(info, recipe.dtype) for name, info in base.infos.items()}
    shards = make_shards(infos, recipe.max_shard_size)
    return Plan(
        recipe,
        base,
        experts,
        strategy,
        shards,
        merged,
        facts,
        maps,
        depths(merged),
        notes,
        threads,
        block,
        looked,
    )


def row_length(info: TensorInfo) -> int:
    """Return the entries that share the first index of a tensor; a vector is one row."""
    return math.prod(info.shape[1:] if len(info.shape) > 1 else info.shape)
