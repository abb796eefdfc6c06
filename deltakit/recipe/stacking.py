"""What a recipe that stacks layers is refused for, before any model is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit.errors import BadValue
from deltakit.recipe.rule import at_rule
from deltakit.recipe.slice import check_slices

if TYPE_CHECKING:
    from deltakit.recipe.recipe import Recipe


def check_stacking(recipe: Recipe) -> None:
    """Raise where the slices of a recipe, and the rest of it, contradict each other."""
    check_slices(recipe.slices, recipe.tasks, recipe.base, recipe.models)
    if not recipe.strategy and recipe.merges:
        raise BadValue("a recipe without a strategy", remedy="name one: deltakit strategies")
    if recipe.slices:
        for key in ("tokenizer", "heads"):
            if getattr(recipe, key):
                raise BadValue(
                    f"slices and {key} do not go together",
                    remedy="stack the layers first, and merge the stacked model with that key",
                )
    for number, rule in enumerate(recipe.rules, 1):
        if rule.factor is not None and not recipe.slices:
            raise at_rule(
                number,
                BadValue(
                    "factor multiplies what a slice takes as it is, and there are no slices",
                    remedy="scale multiplies the merged delta",
                ),
            )
    if not recipe.merges:
        _check_only_takes(recipe)


def _check_only_takes(recipe: Recipe) -> None:
    """Raise for what says how to merge where nothing is merged."""
    given = [
        k for k in ("strategy", "settings", "mask", "weighting", "lines") if getattr(recipe, k)
    ]
    if given or recipe.scale != 1.0:
        raise BadValue(
            "every slice takes its layers as they are, so"
            f" {given[0] if given else 'scale'} means nothing",
            remedy="leave it out; a rule's factor multiplies what is taken",
        )
    for number, rule in enumerate(recipe.rules, 1):
        strange = [field for field in rule.said if field != "factor"]
        if strange or rule.factor is None:
            raise at_rule(
                number,
                BadValue(
                    "every slice takes its layers as they are, so"
                    f" {strange[0] if strange else 'the rule'} means nothing",
                    expected="factor, which multiplies what is taken",
                ),
            )
