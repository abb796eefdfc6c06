"""`deltakit strategies`: what can be merged with, and the settings of each."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Look"


def command(
    name: Annotated[str | None, typer.Argument(help="One strategy, in full.")] = None,
) -> None:
    """List the merging strategies, or show one with its settings."""
    from deltakit import strategies

    print(strategies.names())
