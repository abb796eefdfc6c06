"""deltakit init: make a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.options import Json
from deltakit_cli.output import emit, say

PANEL = "Store"


def command(
    folder: Annotated[Path, typer.Argument(help="The folder that gets a .deltakit.")] = Path(),
    as_json: Json = False,
) -> None:
    """Make a store for deltas in this folder."""
    from deltakit.store import Store

    store = Store.init(folder)
    emit({"store": store.folder}, lambda: say(f"made the store {store.folder}"), as_json)
