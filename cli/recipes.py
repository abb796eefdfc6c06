"""Recipes on a command line: a file, or the folder of a merged model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.output import notes

if TYPE_CHECKING:
    from deltakit.engine import Limits, Plan
    from deltakit.recipe import Recipe
    from deltakit.store import Store

File = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML or JSON, or a merged folder.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run a file of code that the recipe names.")
]


def open_recipe(path: Path) -> Recipe:
    """Return the recipe of a file, mergekit's too, or the one in a merged folder."""
    from deltakit.errors import DeltakitError, NotFound
    from deltakit.mergekit import is_mergekit, translate
    from deltakit.recipe import Recipe
    from deltakit.recipe.text import read_data
    from deltakit.tensors.sidecars import RECIPE_NAME

    file = path / RECIPE_NAME if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise NotFound(
            "the folder holds no recipe",
            where=str(path),
            expected=f"{RECIPE_NAME}, which deltakit merge writes",
            remedy="name a recipe's file, or the folder of a merged model",
        )
    data = read_data(file)
    try:
        if not is_mergekit(data):
            return Recipe.of(data)
        found = translate(data)
    except DeltakitError as error:
        raise error.at(str(file)) from None
    notes(f"mergekit: {text}" for text in found.notes)
    return found.recipe


def plan_file(
    path: Path,
    given: Sequence[str],
    *,
    store: Store | None,
    limits: Limits,
    allow_code: bool,
    keep_state: bool,
) -> Plan:
    """Return the plan of a recipe in a file; `given` are options that it fixes, usage errors."""
    from deltakit.merging import plan_recipe

    if given:
        raise typer.BadParameter(f"--recipe fixes {', '.join(given)}: leave out one or the other")
    return plan_recipe(
        open_recipe(path), limits, store=store, allow_code=allow_code, keep_state=keep_state
    )
