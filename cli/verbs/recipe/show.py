"""deltakit recipe show: the effective settings of each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.effective import Row, rows_of, show_rows, tensors
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit, say
from deltakit_cli.recipes import AllowCode, File, open_recipe

if TYPE_CHECKING:
    from deltakit.recipe import Recipe


def command(
    recipe: File,
    only: Annotated[
        str, typer.Option("--only", metavar="GLOB", help="Tensors of such names alone.")
    ] = "*",
    base: Annotated[
        str | None, typer.Option(help="Whose tensors; by default the recipe's own base.")
    ] = None,
    allow_code: AllowCode = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Tell how each tensor is merged by a recipe, or was in a merged folder.

    deltakit recipe show recipe.yaml

    deltakit recipe show ./merged --only "*.mlp.*" --json
    """
    from deltakit.experts import base_of

    found = open_recipe(recipe)
    if not allow_code:
        found.refuse_code()
    model = base_of(found, base, store_if_any(store))
    rows = rows_of(found.checked(), model.infos, only)
    emit(
        {"recipe": found, "tensors": [row.data() for row in rows]},
        lambda: _show(found, str(model.path), rows),
        as_json,
    )


def _show(recipe: Recipe, base: str, rows: list[Row]) -> None:
    rules = f", {len(recipe.rules)} rules" if recipe.rules else ""
    names = ", ".join(task.name for task in recipe.tasks)
    say(f"{recipe.strategy} of {names} onto {base}: {tensors(len(rows))}{rules}")
    show_rows(recipe, rows)
