"""What a merge is refused for, before the first byte is written, and what is noted instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deltakit.delta import Delta
from deltakit.delta_source import DeltaSource, ModelDelta
from deltakit.engine.groups import Group
from deltakit.errors import BadValue, DeltakitError, NamesDiffer, ShapeMismatch, WrongBase, some
from deltakit.importance import ImportanceMap
from deltakit.provenance import ModelTable
from deltakit.recipe import Recipe, Rules
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.part import Part
from deltakit.tensors.source import TensorSource


@dataclass(frozen=True)
class Expert:
    """One task of a merge: its delta and, where there is one, its importance map's file."""

    name: str
    source: DeltaSource
    importance: Path | None = None


def check_one_precision(group: Group, base: TensorSource) -> None:
    """Refuse to rank float32 and float64 magnitudes together."""
    wide = [name for name in group.names if base.infos[name].dtype == "F64"]
    ranks = any(method.looks == "model" for method in group.methods)
    if ranks and 0 < len(wide) < len(group.names):
        raise BadValue(
            "a trim over the whole model needs parameters of one precision",
            where=base.label,
            got=f"float64 in {some(wide)}, and others that are not",
            remedy='trim each tensor on its own: --set scope="tensor"',
        )


def check_expert(expert: Expert, base: TensorSource, rules: Rules) -> list[str]:
    """Raise unless an expert fits the base in all that is merged; return what is to be noted."""
    source: DeltaSource = expert.source
    seen: TensorSource = base
    if isinstance(source, ModelDelta):
        left_out = [name for name in base.infos if not rules.merges(name)]
        seen = Part(base, left_out) if left_out else base
    try:
        notes = source.check_base(seen)
    except DeltakitError as error:
        if isinstance(error, (NamesDiffer, ShapeMismatch)) and isinstance(source, ModelDelta):
            error.remedy = (
                f"{error.remedy};\nor leave it out: --exclude GLOB keeps the base's,"
                "\n--heads GLOB each task's own beside the result"
            )
        raise error.at(f"task {expert.name!r}") from None
    if isinstance(source, Delta) and source.recipe.get("mask", "none") != "none":
        notes.append(
            f"{expert.name}: stored masked ({source.recipe['mask']}), density {source.density:.3g}"
        )
    return notes


def check_draws(groups: Sequence[Group], recipe: Recipe, expert: Expert) -> None:
    """Refuse to rescale by a random mask that a stored delta was thinned with already.

    Masks of one seed and task nest: the second would drop nothing, and the rescale would be wrong.
    """
    source = expert.source
    rescales = any(method.rescales_draws for group in groups for method in group.methods)
    if not rescales or not isinstance(source, Delta):
        return
    made = source.recipe
    if (made.get("task"), made.get("seed")) == (expert.name, str(recipe.seed)):
        raise BadValue(
            f"the delta of task {expert.name!r} was thinned by the mask this merge would draw",
            where=source.label,
            got=f"seed {recipe.seed} for both",
            remedy="merge with another --seed",
        )


def named_bases(recipe: Recipe, experts: Sequence[Expert], maps: Sequence[ImportanceMap]) -> bool:
    """Tell whether anything says which base it belongs to."""
    return (
        recipe.base_fingerprint is not None
        or any(expert.source.made_against is not None for expert in experts)
        or any(found.base is not None for found in maps)
    )


def check_bases(
    recipe: Recipe, experts: Sequence[Expert], base: Checkpoint, table: ModelTable
) -> Recipe:
    """Compare every stored delta's base, and the recipe's, with this one; return it named."""
    for expert in experts:
        made_against = expert.source.made_against
        if made_against is not None:
            artifact = f"the delta of task {expert.name!r}"
            made_against.check_same(table, artifact, base.label)
    if recipe.base_fingerprint not in (None, table.fingerprint):
        raise WrongBase(
            "the recipe was made with another base",
            where=recipe.base,
            expected=f"fingerprint {recipe.base_fingerprint}",
            got=f"fingerprint {table.fingerprint}",
            remedy="give that base, or take base_fingerprint out of the recipe",
        )
    return msgspec.structs.replace(recipe, base_fingerprint=table.fingerprint)
