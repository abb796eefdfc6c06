"""Options that several verbs take, spelled the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deltakit.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print the same data as JSON.")]
StorePath = Annotated[
    Path | None,
    typer.Option(
        "--store",
        envvar="DELTAKIT_STORE",
        metavar="DIR",
        help="The store; by default .deltakit in this folder or one above it.",
    ),
]


def store_if_any(path: Path | None) -> Store | None:
    """Return the store at `path`, or the nearest; None where none is named and none is found."""
    from deltakit.errors import NotFound
    from deltakit.store import Store

    try:
        return Store.open(path)
    except NotFound:
        if path is not None:
            raise
        return None
