"""The vocabularies of a merge's models: one for all, or none to merge them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deltakit.delta_source import merged_names
from deltakit.engine.checks import Expert
from deltakit.recipe import Recipe, Rules
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.vocabulary import Matched, chat_files, check_same_tokens, match, model_of


def in_one_vocabulary(
    recipe: Recipe, base: Checkpoint, experts: Sequence[Expert], rules: Rules
) -> tuple[Matched | None, list[str]]:
    """Return base and experts in the recipe's vocabulary, and notes.

    None where the recipe names no tokenizer: then the models' tokens must be the same. Where it
    stacks layers they were compared then.
    """
    if recipe.slices:
        return None, []
    names, sources = [e.name for e in experts], [e.source for e in experts]
    if recipe.tokenizer is None:
        return None, check_same_tokens(base, names, sources, rules.merges)
    merged = [name for name in merged_names(base.infos) if rules.merges(name)]
    weights = {name: rules.effective(name).weights for name in merged}
    multiple = recipe.pad_to_multiple_of
    found = match(recipe.tokenizer, base, names, sources, weights, multiple, recipe.tokens)
    return found, list(found.notes)


def files_beside(
    recipe: Recipe,
    base: Checkpoint,
    experts: Sequence[Expert],
    vocabulary: Matched | None,
    stacked: Mapping[str, bytes],
) -> tuple[dict[str, bytes | None], list[str]]:
    """Return the files beside the weights that are not the base's, None for one left out; notes."""
    files = {**stacked, **(vocabulary.files if vocabulary else {})}
    models = {expert.name: model_of(expert.source) for expert in experts}
    chat, notes = chat_files(recipe.chat_template, base, models, files)
    return {**files, **chat}, notes


def matched_experts(vocabulary: Matched, experts: Sequence[Expert]) -> list[Expert]:
    """Return the experts with their deltas as the vocabulary has them."""
    return [
        replace(expert, source=source)
        for expert, source in zip(experts, vocabulary.sources, strict=True)
    ]
