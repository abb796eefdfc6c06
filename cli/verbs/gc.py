"""deltakit gc: free the space of what no task refers to."""

from __future__ import annotations

from typing import Annotated

import typer

from deltakit_cli.figures import size
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, notes, say
from deltakit_cli.records import count

PANEL = "Store"


def command(
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="Leave what changed in the last seconds.")
    ] = 3600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Delete files that no task refers to: of removed tasks, and of interrupted work."""
    from deltakit.store import Store

    result = Store.open(store).gc(grace, dry_run)

    def render() -> None:
        verb = "would delete" if dry_run else "deleted"
        if dry_run:
            for path in result.deleted:
                say(str(path))
        say(f"{verb} {count(len(result.deleted), 'file')}, {size(result.nbytes)}")
        if result.waiting:
            left = count(len(result.waiting), "file")
            say(
                f"left {left}, {size(result.waiting_nbytes)}, changed in the last {grace:g} s"
                " (--grace 0 deletes them when nothing else uses the store)"
            )
        notes(f"{task} is being written, and was left alone" for task in result.busy)
        damaged = "was left alone, its manifest cannot be read: see deltakit verify"
        notes(f"{task} {damaged}" for task in result.unreadable)

    emit({**vars(result), "dry_run": dry_run}, render, as_json)
