"""deltakit recipe convert: the same recipe as YAML or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.output import say
from deltakit_cli.recipes import File, open_recipe


def command(
    recipe: File,
    out: Annotated[Path, typer.Argument(help="The file to write, .yaml or .json.")],
) -> None:
    """Write a recipe in the other format: YAML or JSON, as the name says.

    deltakit recipe convert ./merged recipe.yaml
    """
    open_recipe(recipe).write(out)
    say(f"wrote {out}")
