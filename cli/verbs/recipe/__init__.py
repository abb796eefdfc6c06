"""deltakit recipe: what a recipe means for each tensor, and the same recipe in another format."""

from __future__ import annotations

import typer

from deltakit_cli.verbs.recipe import convert, show

PANEL = "Merge"

app = typer.Typer(no_args_is_help=True, help="Show what a recipe means, and convert it.")
for verb in (show, convert):
    app.command(verb.__name__.rpartition(".")[2])(verb.command)
