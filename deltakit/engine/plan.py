"""Plan: everything a merge will do, checked whole before the first byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from deltakit.delta import Delta
from deltakit.delta_source import DeltaSource, is_merged, merged_names
from deltakit.engine.limits import Limits, entry_bytes
from deltakit.engine.shards import Shard, make_shards
from deltakit.errors import BadValue, DeltakitError, WrongBase, some
from deltakit.importance import ImportanceMap
from deltakit.provenance import ModelTable
from deltakit.recipe import Recipe
from deltakit.strategies import Strategy
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo

# Bytes read and written a second and thread, order of magnitude (benchmarks/merge_cost.py).
_RATES = {"nothing": 0.4e9, "tensor": 0.07e9, "model": 0.05e9}


@dataclass(frozen=True)
class Expert:
    """One task of a merge: its delta and, where there is one, its importance map's file."""

    name: str
    source: DeltaSource
    importance: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A merge that will not be refused half-way: what is read, computed and written."""

    recipe: Recipe
    base: Checkpoint
    experts: Sequence[Expert]
    strategy: Strategy
    shards: Sequence[Shard]
    merged: Sequence[str]  # parameters that some expert changes, sorted
    facts: Mapping[str, Any] = field(repr=False)  # what strategy.prepare found, by parameter
    notes: Sequence[str]
    threads: int
    block: int  # entries

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
        """Upper estimate of the scratch memory in bytes: threads x block x what a block needs."""
        return self.threads * self.block * entry_bytes(len(self.experts))

    @property
    def seconds(self) -> float:
        """Rough time estimate in seconds."""
        moved = self.bytes_in + self.bytes_out
        return moved / (_RATES[self.strategy.looks] * self.threads)

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
    strategy = recipe.make_strategy()
    notes: list[str] = []
    for expert in experts:
        notes += _check_expert(expert, base)
    table = _check_fingerprints(experts, base, base_table)
    names = merged_names(base.infos)
    merged = [name for name in names if any(e.source.changes(name) for e in experts)]
    if not merged:
        raise BadValue(
            "nothing to merge: no task changes any parameter",
            where=some([expert.name for expert in experts]),
            remedy="check that the tasks are fine-tunes of this base",
        )
    _check_one_precision(strategy, base, merged)
    facts = _prepare(strategy, experts, base, table, names)
    if table is not None:
        recipe = _with_fingerprint(recipe, table)
    threads, block = (limits or Limits()).settle(len(experts))
    infos = {name: output_info(info, recipe.dtype) for name, info in base.infos.items()}
    shards = make_shards(infos, recipe.max_shard_size)
    return Plan(recipe, base, experts, strategy, shards, merged, facts, notes, threads, block)


def _check_one_precision(strategy: Strategy, base: Checkpoint, merged: Sequence[str]) -> None:
    """Refuse to rank float32 and float64 magnitudes together."""
    wide = [name for name in merged if base.infos[name].dtype == "F64"]
    if strategy.looks == "model" and 0 < len(wide) < len(merged):
        raise BadValue(
            "a trim over the whole model needs parameters of one precision",
            where=base.label,
            got=f"float64 in {some(wide)}, and others that are not",
            remedy='trim each tensor on its own: --set scope="tensor"',
        )


def _check_expert(expert: Expert, base: Checkpoint) -> list[str]:
    try:
        notes = expert.source.check_base(base)
    except DeltakitError as error:
        raise error.at(f"task {expert.name!r}") from None
    source = expert.source
    if isinstance(source, Delta) and source.recipe.get("mask", "none") != "none":
        notes.append(
            f"{expert.name}: stored masked ({source.recipe['mask']}), density {source.density:.3g}"
        )
    return notes


def _check_fingerprints(
    experts: Sequence[Expert], base: Checkpoint, table: ModelTable | None
) -> ModelTable | None:
    """Compare every stored delta's base with this one, tensor by tensor."""
    for expert in experts:
        if isinstance(expert.source, Delta):
            table = table or ModelTable(base.infos, base.digests())
            artifact = f"the delta of task {expert.name!r}"
            expert.source.base.check_same(table, artifact, base.label)
    return table


def _with_fingerprint(recipe: Recipe, table: ModelTable) -> Recipe:
    if recipe.base_fingerprint not in (None, table.fingerprint):
        raise WrongBase(
            "the recipe was made with another base",
            where=recipe.base,
            expected=f"fingerprint {recipe.base_fingerprint}",
            got=f"fingerprint {table.fingerprint}",
            remedy="give that base, or take base_fingerprint out of the recipe",
        )
    return msgspec.structs.replace(recipe, base_fingerprint=table.fingerprint)


def _prepare(
    strategy: Strategy,
    experts: Sequence[Expert],
    base: Checkpoint,
    table: ModelTable | None,
    names: list[str],
) -> Mapping[str, Any]:
    if not strategy.needs_importance:
        return {}
    without = [expert.name for expert in experts if expert.importance is None]
    if without:
        raise BadValue(
            f"the strategy needs an importance map of every task; none for {some(without)}",
            remedy="capture one in training (KlfImportance), or: deltakit importance"
            f" {without[0]}; for models given by path add --importance FILE once a task",
        )
    maps = [ImportanceMap.open(expert.importance) for expert in experts if expert.importance]
    if table is None and any(found.base is not None for found in maps):
        table = ModelTable(base.infos, base.digests())
    for expert, found in zip(experts, maps, strict=True):
        check_map(found, base, table, f"the importance map of task {expert.name!r}")
    return strategy.prepare(maps, names)


def check_map(
    found: ImportanceMap, base: Checkpoint, table: ModelTable | None, artifact: str
) -> None:
    """Raise WrongBase for an importance map of another base, naming what differs."""
    strange = [name for name in found if name not in base.infos]
    if strange:
        raise WrongBase(
            f"{artifact} names parameters the base does not have",
            where=base.label,
            got=some(strange),
            remedy="capture importance on a fine-tune of this base",
        )
    if found.base is not None and table is not None and found.base != table.fingerprint:
        raise WrongBase(
            f"{artifact} was made against another base",
            where=base.label,
            expected=f"fingerprint {found.base}",
            got=f"fingerprint {table.fingerprint}",
            remedy="give the base it was made against",
        )
