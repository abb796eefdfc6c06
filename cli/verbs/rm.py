"""deltakit rm: take a task out of the store."""

from __future__ import annotations

from typing import Annotated

import typer

from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, say

PANEL = "Store"


def command(
    task: Annotated[str, typer.Argument(help="A task of the store.")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Remove a task; `deltakit gc` then frees its space."""
    from deltakit.store import Store

    Store.open(store).remove(task)
    emit(
        {"removed": task},
        lambda: say(f"removed {task}; its files stay until deltakit gc collects them"),
        as_json,
    )
