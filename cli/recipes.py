"""Recipes on a command line: a file, or the folder of a merged model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deltakit.recipe import Recipe

File = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML or JSON, or a merged folder.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run a file of code that the recipe names.")
]


def open_recipe(path: Path) -> Recipe:
    """Return the recipe of a file, or the one in a merged folder."""
    from deltakit.recipe import Recipe
    from deltakit.tensors.sidecars import RECIPE_NAME

    return Recipe.read(path / RECIPE_NAME if path.is_dir() else path)
