"""deltakit lora resize: an adapter at another rank."""

from __future__ import annotations

from pathlib import Path

import typer

from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit
from deltakit_cli.verbs.lora._options import Dtype, Energy, One, Out, Overwrite, Rank
from deltakit_cli.verbs.lora._report import merging, show_report


def command(
    adapter: One,
    rank: Rank = None,
    energy: Energy = None,
    dtype: Dtype = None,
    out: Out = Path("resized-lora"),
    overwrite: Overwrite = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Bring an adapter to another rank: the nearest there is, and what it loses.

    deltakit lora resize ./a --energy 0.99 --out ./a-small
    """
    from deltakit.lora.cut import Size
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members

    if rank is None and energy is None:
        raise typer.BadParameter("--rank K or --energy E is missing")
    members, size = open_members([adapter], store=store_if_any(store)), Size(rank, energy)
    with merging(members, size) as meter:
        report = merge_adapters(
            members,
            "svd",
            out,
            overwrite=overwrite,
            progress=meter.advance,
            size=size,
            dtype=dtype,
        )
    emit(report, lambda: show_report(report, 1), as_json)
