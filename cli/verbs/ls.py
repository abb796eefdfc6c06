"""deltakit ls: the tasks of a store."""

from __future__ import annotations

import contextlib

from deltakit_cli.figures import fraction, size
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, say, table
from deltakit_cli.records import age, task_data

PANEL = "Store"


def command(store: StorePath = None, as_json: Json = False) -> None:
    """List the tasks, one a line."""
    from deltakit.errors import UnknownName
    from deltakit.store import Store

    opened = Store.open(store)
    records = []
    for name in opened.tasks():
        with contextlib.suppress(UnknownName):  # another process removed it just now
            records.append(opened.task(name))

    def render() -> None:
        if not records:
            say("no task yet: deltakit add TASK --base BASE --model PATH, or --adapter PATH")
            return
        rows = [
            [
                r.name,
                r.base or "-",
                r.role,
                fraction(r.density),
                size(r.total_nbytes),
                "yes" if r.importance_path else "no",
                age(r.created),
            ]
            for r in records
        ]
        headers = ["task", "base", "role", "density", "size", "importance", "age"]
        table(headers, rows, align="lllrrlr")

    emit([task_data(record) for record in records], render, as_json)
