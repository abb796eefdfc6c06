"""The model card of a merged model."""

from __future__ import annotations

from pathlib import Path

from deltakit.engine.aside import FOLDER
from deltakit.recipe import Recipe
from deltakit.recipe.gradient import text
from deltakit.recipe.pattern import text as patterns
from deltakit.strategies import find


def model_card(recipe: Recipe) -> str:
    """Return a README.md in the hub's form: what was merged, how, and how to do it again."""
    base = Path(recipe.base).name
    return f"""---
library_name: transformers
tags:
- merge
- deltakit
---
{_merged(recipe, base) if recipe.merges else _stacked(recipe, base)}

`deltakit_recipe.json` beside this file holds everything the merge depends on;
`deltakit merge --recipe deltakit_recipe.json --out DIR` makes the same bytes again.
"""


def _merged(recipe: Recipe, base: str) -> str:
    paper = find(recipe.strategy).paper
    settings = ", ".join(f"{key} {value}" for key, value in sorted(recipe.settings.items()))
    rows = "\n".join(f"| {task.name} | {text(task.weight)} |" for task in recipe.tasks)
    fine_tunes = "1 fine-tune" if len(recipe.tasks) == 1 else f"{len(recipe.tasks)} fine-tunes"
    return f"""# A merge of {fine_tunes} of {base}

Made by deltakit (the package deltakit-merge) with the strategy
`{recipe.strategy}`{f" ({paper})" if paper else ""}{f": {settings}" if settings else ""}.
Scale {text(recipe.scale)}, seed {recipe.seed}.{_around(recipe)}

| task | weight |
|---|---|
{rows}"""


def _stacked(recipe: Recipe, base: str) -> str:
    models = " and ".join([base, *(task.name for task in recipe.tasks), *sorted(recipe.models)])
    return f"""# Layers of {models}, stacked

Made by deltakit (the package deltakit-merge) without a merge: each layer is one model's own.
{_around(recipe)}"""


def _around(recipe: Recipe) -> str:
    """Return what stands around the strategy, in words."""
    told = []
    if recipe.mask is not None:
        told.append(f"Deltas thinned by the mask `{recipe.mask.name}`.")
    if recipe.weighting is not None:
        told.append(f"Weights found by `{recipe.weighting.name}`.")
    if recipe.lines is not None:
        told.append("Scaled by {:g} + {:g} depth.".format(*recipe.lines))
    if recipe.slices:
        told.append(f"Layers stacked: {'; '.join(part.text for part in recipe.slices)}.")
    if recipe.rules:
        told.append(f"Some tensors otherwise, by {len(recipe.rules)} rules: see the recipe.")
    if recipe.heads:
        told.append(f"Each task's own `{patterns(recipe.heads)}` in `{FOLDER}/`, not merged.")
    if recipe.tokenizer is not None:
        kind = recipe.tokenizer if recipe.tokenizer in ("base", "union") else "one given"
        told.append(f"Rows of embeddings matched by token; the tokenizer is the {kind}.")
    return "".join(f"\n{line}" for line in told)
