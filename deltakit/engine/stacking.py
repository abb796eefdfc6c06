"""A base and its experts with their layers stacked as a recipe's slices say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltakit.delta_source import ModelDelta, is_merged
from deltakit.engine.checks import Expert
from deltakit.errors import BadValue, DtypeMismatch, some
from deltakit.recipe import BASE, Recipe, Rules
from deltakit.stacking import Stack, StackedBase, differences, stack, stacked_config
from deltakit.strategies import layer, with_layer
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary import check_same_tokens


@dataclass(frozen=True)
class Stacked:
    """What a merge reads, under the output's names."""

    base: TensorSource
    experts: Sequence[Expert]
    rules: Rules
    files: Mapping[str, bytes]  # beside the weights: those that are not the base's
    notes: Sequence[str]
    stack: Stack | None = None


def stacked(recipe: Recipe, base: Checkpoint, experts: Sequence[Expert]) -> Stacked:
    """Return base and experts with the layers of a recipe's slices; as they are without slices.

    `experts` stand for the recipe's tasks, then for its models, by name.

    Raises BadValue for an expert that is no model, and for what a config says of layers and cannot
    say of the stack; DtypeMismatch for models of several dtypes where the recipe names none.
    """
    if not recipe.slices:
        return Stacked(base, experts, Rules(recipe, base.infos), {}, [])
    if any(method.needs_importance for method in recipe.methods()):
        raise BadValue(
            "importance maps speak of a model's own layers, not of stacked ones",
            remedy="stack the layers first, and merge the stacked models",
        )
    models = {expert.name: _model(expert) for expert in experts}
    experts, more = experts[: len(recipe.tasks)], experts[len(recipe.tasks) :]
    tasks = {expert.name: models[expert.name] for expert in experts}
    found = stack(recipe.slices, base, tasks, {expert.name: models[expert.name] for expert in more})
    rules = Rules(recipe, found.base.infos, found.taken)
    factors = _factors(rules, found)
    if recipe.dtype is None:
        _check_dtypes(base, found)
    outer = [expert for expert in (*experts, *more) if expert.name in found.outer]
    notes = check_same_tokens(
        base, [e.name for e in outer], [e.source for e in outer], lambda name: True
    )
    named = {level.model for level in found.levels} & set(models)
    configs = {name: models[name].config() for name in sorted(named)}
    for name, config in configs.items():
        differ = differences(base.config(), config)
        if differ:
            notes.append(f"{name}: the base's config counts, which differs in {some(differ)}")
    files = {}
    if base.config():
        config = stacked_config(base.config(), found.base_layers, found.levels, configs)
        files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    return Stacked(
        StackedBase(found.base, factors, recipe.dtype),
        [dataclasses.replace(e, source=ModelDelta(found.tasks[e.name])) for e in experts],
        rules,
        files,
        notes,
        found,
    )


def _model(expert: Expert) -> Checkpoint:
    """Return the model that an expert is; BadValue for one that is a delta to the base."""
    source = expert.source
    if isinstance(source, ModelDelta) and isinstance(source.tuned, Checkpoint):
        return source.tuned
    raise BadValue(
        f"the layers of task {expert.name!r} cannot be stacked: it is a delta to the base",
        where=source.label,
        expected="a model folder",
        remedy="make its model first: deltakit restore, or deltakit lora bake",
    )


def _factors(rules: Rules, found: Stack) -> dict[str, float]:
    """Return what multiplies each tensor that is taken; BadValue for one that is merged."""
    factors = {name: rules.factor(name) for name in found.base.infos}
    factors = {name: factor for name, factor in factors.items() if factor != 1.0}
    merged = [name for name in factors if rules.merges(name)]
    if merged:
        raise BadValue(
            "a rule's factor multiplies what a slice takes as it is, and this is merged",
            where=some(merged),
            remedy="scale multiplies the merged delta; or name the layers of the rule",
        )
    return factors


def _check_dtypes(base: Checkpoint, found: Stack) -> None:
    """Raise DtypeMismatch where another model's layers have another dtype than the base's."""
    known: dict[str, set[str]] = {}
    for name, info in base.infos.items():
        known.setdefault(_kind(name), set()).add(info.dtype)
    for name, level in sorted(found.homes.items(), key=lambda item: item[0]):
        if level.model == BASE:
            continue
        info = found.base.infos[name]
        if is_merged(info) and info.dtype not in known.get(_kind(name), {info.dtype}):
            raise DtypeMismatch(
                "layers of several dtypes are stacked, and none is named for the output",
                where=name,
                expected=f"{some(known[_kind(name)])}, as in the base",
                got=info.dtype,
                remedy="say which in the recipe, as dtype: BF16",
            )


def _kind(name: str) -> str:
    return name if layer(name) is None else with_layer(name, 0)
