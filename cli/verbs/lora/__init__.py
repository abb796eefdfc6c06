"""deltakit lora: adapters merged, baked, resized and converted, from their factors alone."""

from __future__ import annotations

import typer

from deltakit_cli.verbs.lora import bake, convert, extract, lint, merge, resize

PANEL = "Merge"

app = typer.Typer(no_args_is_help=True, help="Merge, bake, extract and convert LoRA adapters.")
for verb in (merge, bake, extract, resize, convert, lint):
    app.command(verb.__name__.rpartition(".")[2])(verb.command)
