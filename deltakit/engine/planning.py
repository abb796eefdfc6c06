"""Making a plan: a merge checked whole before the first byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltakit.delta_source import ModelDelta, merged_names
from deltakit.engine.aside import notes_on_aside, set_aside
from deltakit.engine.checks import (
    Expert,
    check_bases,
    check_draws,
    check_expert,
    check_one_precision,
    named_bases,
)
from deltakit.engine.groups import Group, make_groups
from deltakit.engine.keeping import check_before, check_streams, earlier_scores, plan_keeping
from deltakit.engine.limits import Limits
from deltakit.engine.maps import check_common, check_map, notes_on_maps, open_maps
from deltakit.engine.plan import Plan
from deltakit.engine.scratch import settled
from deltakit.engine.shapes import output_info
from deltakit.engine.shards import make_shards
from deltakit.engine.stacking import stacked
from deltakit.engine.state import State
from deltakit.engine.vocabularies import files_beside, in_one_vocabulary, matched_experts
from deltakit.errors import BadValue, some
from deltakit.provenance import ModelTable
from deltakit.recipe import Effective, Recipe
from deltakit.strategies import Scores, depths
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.quantised import refuse_scaled


def make_plan(
    recipe: Recipe,
    base: Checkpoint,
    experts: Sequence[Expert],
    *,
    base_table: ModelTable | None = None,
    limits: Limits | None = None,
    keep_state: bool = False,
    before: State | None = None,
) -> Plan:
    """Check a merge whole and return its plan; reads headers, and importance maps' few numbers.

    `experts` stand for `recipe.tasks`, in that order; after the state `before`, for the last of
    them. With `keep_state`, or such a state, a task can be added later. `base_table` is what is
    known of the base; without it the base is hashed where an artifact was made against a
    fingerprint. Raises what is wrong: NamesDiffer, ShapeMismatch, DtypeMismatch, WrongBase,
    BadValue, UnknownName.
    """
    recipe = recipe.checked()
    stack = stacked(recipe, base, experts)
    source = stack.base
    models, experts, rules = experts, stack.experts, stack.rules
    merges = [name for name in merged_names(source.infos) if rules.merges(name)]
    effective = {name: rules.effective(name) for name in merges}
    every = make_groups(merges, effective)
    keep_state = keep_state or before is not None
    if keep_state:
        check_streams(recipe, every)
    seen = [set_aside(expert, source, rules) for expert in experts]
    heads = {expert.name: found for expert, found in seen if found is not None}
    given, experts = experts, [expert for expert, _ in seen]
    vocabulary, notes = in_one_vocabulary(recipe, base, experts, rules)
    files, told = files_beside(recipe, base, models, vocabulary, stack.files)
    notes += [*stack.notes, *told, *notes_on_aside(recipe, given, heads, source, rules)]
    for number, expert in enumerate(experts):
        as_known = source if vocabulary is None else vocabulary.sources[number].seen
        notes += check_expert(expert, as_known, rules)
    for expert in given:
        check_draws(every, recipe, expert)
    maps = open_maps(every, experts)
    if base_table is None and (keep_state or named_bases(recipe, given, maps)):
        base_table = ModelTable(base.infos, base.digests())
    if base_table is not None:
        recipe = check_bases(recipe, given, base, base_table)
    if vocabulary is not None:
        source, experts = vocabulary.base, matched_experts(vocabulary, experts)
        maps = vocabulary.maps(maps)
    earlier = before.parameters if before else ()
    merged = [n for n in merges if n in earlier or any(e.source.changes(n) for e in experts)]
    if not merged and recipe.merges:
        raise BadValue(
            "nothing to merge: no task changes any parameter",
            where=some([expert.name for expert in experts]),
            remedy="check that the tasks are fine-tunes of this base",
        )
    whole = any(isinstance(expert.source, ModelDelta) for expert in given)
    refuse_scaled(base, filter(rules.merges, base.infos) if whole else merged)
    groups = make_groups(merged, effective)
    if before:
        check_before(before, groups)
    for expert, found in zip(experts, maps, strict=False):
        check_map(found, source, base_table, f"the importance map of task {expert.name!r}")
    notes += notes_on_maps(experts, maps)
    for group in groups:
        check_one_precision(group, source)
        if any(method.needs_importance for method in group.methods):
            check_common(experts, maps, source, group.names)
    facts = _facts(every, effective, source.infos, [*earlier_scores(before), *maps] if maps else [])
    keeping = None
    if keep_state:
        keeping = plan_keeping(recipe, groups, effective, source.infos, maps, facts, before)
    scratch = settled(
        limits or Limits(), recipe, groups, effective, source, experts, facts.values(), keeping
    )
    infos = {name: output_info(info, recipe.dtype) for name, info in source.infos.items()}
    return Plan(
        recipe=recipe,
        model=base,
        base=source,
        experts=experts,
        effective={name: effective[name] for name in merged},
        groups=groups,
        heads=heads,
        shards=make_shards(infos, recipe.max_shard_size),
        merged=merged,
        facts=facts,
        maps=maps,
        depths=depths(source.infos),
        notes=notes,
        scratch=scratch,
        vocabulary=vocabulary,
        files=files,
        keeping=keeping,
    )


def _facts(
    groups: Sequence[Group],
    effective: Mapping[str, Effective],
    infos: Mapping[str, TensorInfo],
    maps: Sequence[Scores],
) -> dict[str, Any]:
    """Return what strategies find of a whole model beforehand, of each rule's parameters."""
    facts: dict[str, Any] = {}
    for group in groups if maps else ():
        shapes = {name: infos[name].shape for name in group.names}
        for method in group.methods:
            if method.needs_importance:
                found = method.prepare(maps, shapes)
                own = (name for name in group.names if effective[name].method is method)
                facts |= {name: found[name] for name in own if name in found}
    return facts
