"""deltakit log: how a task came to be what it is."""

from __future__ import annotations

from typing import Annotated

import typer

from deltakit_cli.figures import size
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, say, table
from deltakit_cli.records import count, task_data

PANEL = "Store"


def command(
    task: Annotated[str, typer.Argument(help="A task of the store.")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """List a task's revisions, the newest first."""
    from deltakit.store import Store

    records = Store.open(store).log(task)

    def render() -> None:
        say(f"{task}, {count(len(records), 'revision')}")
        rows = [
            [r.revision, r.reason, r.created, size(r.total_nbytes), r.parent or "-"]
            for r in records
        ]
        table(["revision", "made by", "when", "size", "parent"], rows, align="lllrl")

    emit([{**task_data(r), "reason": r.reason} for r in records], render, as_json)
