"""Options that several verbs take, spelled the same everywhere."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.figures import size
from deltakit_cli.output import note, printable
from deltakit_cli.progress import progress

if TYPE_CHECKING:
    from deltakit.store import BaseRecord, Store

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


def is_given(ctx: typer.Context, parameter: str) -> bool:
    """Tell whether a parameter is on the command line, be its value the default's or another."""
    source = ctx.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def store_if_any(path: Path | None) -> Store | None:
    """Return the store at `path`, or the nearest; None where none is named and none is found."""
    from deltakit.errors import NotFound
    from deltakit.store import Store

    try:
        return Store.open(path, hashing=hashing)
    except NotFound:
        if path is not None:
            raise
        return None


@contextlib.contextmanager
def hashing(base: BaseRecord) -> Iterator[Callable[[str, int], None]]:
    """Say that a base is hashed again, and how it is not every time; give what shows how far."""
    again = shlex.join(["deltakit", "base", "add", base.name, str(base.path)])
    note(
        f"note: the files of the base {base.name!r} look other than when it was added, so that all"
        f" {size(base.nbytes)} are read to check them; once and for all: {printable(again)}"
    )
    with progress("base", base.nbytes) as meter:
        yield meter.advance
