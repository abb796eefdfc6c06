"""Options that several verbs take, spelled the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
