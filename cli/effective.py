"""The effective settings of each tensor that a recipe merges, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltakit.engine.stacking import Stacked
    from deltakit.recipe import Effective, Recipe
    from deltakit.stacking import Level
    from deltakit.strategies import Settings


@dataclass
class Row:
    """One tensor: what becomes of it, and by which rule (0 for what the recipe says of all)."""

    name: str
    layer: int | None
    what: str  # merged, taken, excluded, head, copied
    rule: int
    # What is applied, in that order: weights, mask, strategy.., each with its settings.
    effective: dict[str, dict[str, Any]] = field(default_factory=dict)
    home: Level | None = None  # of a stack: which layer of which models it is

    def data(self) -> dict[str, Any]:
        """Return the row as --json prints it."""
        own = {key: value.get("", value) for key, value in self.effective.items()}
        rule = self.rule or None
        told = {"name": self.name, "layer": self.layer, "what": self.what, "rule": rule, **own}
        if self.home is not None:
            told["from"] = {"model": self.home.model, "tasks": list(self.home.tasks)}
            if self.layer is not None:
                told["from"] |= {"layer": self.home.layer, "tasks": dict(self.home.tasks)}
            if self.home.places:  # the models whose layers are merged as a task's
                told["from"]["places"] = dict(self.home.places)
        return told


def rows_of(recipe: Recipe, seen: Stacked, only: str) -> list[Row]:
    """Return one row a tensor of the output, in the order of layers."""
    from deltakit.delta_source import is_merged
    from deltakit.engine.shards import natural
    from deltakit.recipe.pattern import matcher
    from deltakit.strategies import layer

    rules, infos, wanted = seen.rules, seen.base.infos, matcher(only)
    homes = seen.stack.homes if seen.stack else {}
    tasks = [task.name for task in recipe.tasks]
    rows = []
    for name in sorted(filter(wanted, infos), key=natural):
        home = homes.get(name)
        if home is not None and home.taken is not None:
            number = rules.number(name)
            says = number and recipe.rules[number - 1].factor is not None
            factor = {"factor": {"": rules.factor(name)}} if says else {}
            rows.append(Row(name, layer(name), "taken", number, factor, home))
        elif rules.is_head(name):
            rows.append(Row(name, layer(name), "head", 0))
        elif not rules.merges(name):
            rows.append(Row(name, layer(name), "excluded", rules.number(name), home=home))
        elif not is_merged(infos[name]):
            rows.append(Row(name, layer(name), "copied", 0, home=home))
        else:
            number, made = rules.number(name), rules.effective(name)
            called = recipe.rules[number - 1].strategy if number else recipe.strategy
            told = _effective(f"{called}", made, tasks, _pieces(recipe, number))
            rows.append(Row(name, layer(name), "merged", number, told, home))
    return rows


def _pieces(recipe: Recipe, number: int) -> dict[str, str]:
    """Return the names of the mask and the weighting that a rule or the recipe has."""
    own = recipe.rules[number - 1] if number else recipe.own
    pieces = (("mask", own.mask), ("weighting", own.weighting))
    return {kind: piece.name for kind, piece in pieces if piece}


def _effective(
    called: str, made: Effective, tasks: Sequence[str], pieces: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return all that holds of one tensor, in the order in which it is applied."""
    from deltakit.strategies import PerTask

    method = made.method
    found: dict[str, dict[str, Any]] = {}
    if method.weighting is None and method.strategy.weighted:
        found["weights"] = dict(zip(tasks, made.weights, strict=True))
    around: tuple[tuple[str, str, Settings | None], ...] = (
        ("weighting", pieces.get("weighting", ""), method.weighting),
        ("mask", pieces.get("mask", ""), method.mask),
        ("strategy", called, method.strategy),
    )
    for kind, name, settings in around:
        if settings is not None:
            said = settings.said if isinstance(settings, PerTask) else dataclasses.asdict(settings)
            found[kind] = {"name": name, **said}
    if method.lines:
        found["lines"] = {"": list(method.lines)}
    return {**found, "scale": {"": made.scale}}
