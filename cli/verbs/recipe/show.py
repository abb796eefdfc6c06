"""deltakit recipe show: the effective settings of each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from deltakit_cli.effective import Row, rows_of
from deltakit_cli.figures import things
from deltakit_cli.grouped import show_rows, show_slices
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit, say
from deltakit_cli.recipes import AllowCode, File, open_recipe

if TYPE_CHECKING:
    from deltakit.engine.stacking import Stacked
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
    from deltakit.engine.stacking import stacked
    from deltakit.experts import base_of, reopen

    found = open_recipe(recipe)
    if not allow_code:
        found.refuse_code()
    model = base_of(found, base, store_if_any(store))
    opened = replace(found, base=str(model.path))
    experts = reopen(opened, store_if_any(store)).experts if found.slices else []
    checked = found.checked()
    seen = stacked(checked, model, experts)
    rows = rows_of(checked, seen, only)
    emit(
        {"recipe": found, "tensors": [row.data() for row in rows]},
        lambda: _show(found, seen, rows),
        as_json,
    )


def _show(recipe: Recipe, seen: Stacked, rows: list[Row]) -> None:
    rules = f", {things(len(recipe.rules), 'rule')}" if recipe.rules else ""
    names = ", ".join(task.name for task in recipe.tasks)
    how = f"{recipe.strategy} of {names} onto" if recipe.merges else "layers stacked on"
    say(f"{how} {seen.base.label}: {things(len(rows), 'tensor')}{rules}")
    if seen.stack is not None:
        say()
        show_slices(recipe, seen.stack)
    show_rows(recipe, rows)
