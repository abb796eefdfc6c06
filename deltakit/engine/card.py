"""The model card of a merged model."""

from __future__ import annotations

from pathlib import Path

from deltakit.recipe import Recipe
from deltakit.strategies import find


def model_card(recipe: Recipe) -> str:
    """Return a README.md in the hub's form: what was merged, how, and how to do it again."""
    paper = find(recipe.strategy).paper
    settings = ", ".join(f"{key} {value}" for key, value in sorted(recipe.settings.items()))
    rows = "\n".join(f"| {task.name} | {task.weight:g} |" for task in recipe.tasks)
    base = Path(recipe.base).name
    return f"""---
library_name: transformers
tags:
- merge
- deltakit
---
# A merge of {len(recipe.tasks)} fine-tunes of {base}

Made by deltakit (the package deltakit-merge) with the strategy
`{recipe.strategy}` ({paper}){f": {settings}" if settings else ""}. Scale {recipe.scale:g},
seed {recipe.seed}.

| task | weight |
|---|---|
{rows}

`deltakit_recipe.json` beside this file holds everything the merge depends on;
`deltakit merge --recipe deltakit_recipe.json --out DIR` makes the same bytes again.
"""
