"""deltakit verify: is the store sound."""

from __future__ import annotations

from typing import Annotated

import typer

from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, printable, say
from deltakit_cli.progress import progress
from deltakit_cli.records import count

PANEL = "Store"


def command(
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Hash every byte of every file and base.")
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Check that everything in the store is as it was stored; exit with 1 if not.

    Nothing is ever repaired or deleted.
    """
    from deltakit.store import Store

    opened = Store.open(store)
    with progress("verify", opened.bytes_to_verify() if read_data else 0) as meter:
        findings = opened.verify(read_data, progress=meter.advance)

    def render() -> None:
        for finding in findings:
            say(printable(str(finding)))
        if findings:
            say(f"damaged: {count(len(findings), 'finding')} in {opened.folder}")
        elif read_data:
            say(f"sound: every byte of {opened.folder} and of its bases is as it was stored")
        else:
            say(f"sound in structure: {opened.folder} (--read-data looks at every byte)")

    data = {
        "store": opened.folder,
        "sound": not findings,
        "read_data": read_data,
        "findings": findings,
    }
    emit(data, render, as_json)
    if findings:
        raise typer.Exit(1)
