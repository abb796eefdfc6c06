"""deltakit lora merge: adapters in, one adapter out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.lists import lines as parse_lines
from deltakit_cli.lists import numbers, settings
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit
from deltakit_cli.verbs.lora._options import (
    Adapters,
    Dtype,
    Energy,
    Out,
    Overwrite,
    Rank,
    Seed,
    Settings,
)
from deltakit_cli.verbs.lora._report import merging, show_report


def command(
    adapters: Adapters,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            "-m",
            help="cat, svd, linear, core_space, knots, klf; a strategy; or FILE.py:Class.",
        ),
    ] = "svd",
    weights: Annotated[
        str,
        typer.Option(metavar="1,0.5", help="One weight an adapter, or auto:NAME to find them."),
    ] = "",
    rank: Rank = None,
    energy: Energy = None,
    set_: Settings = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="NAME[:KEY=VALUE,..]", help="Thin each delta first, as random."),
    ] = None,
    lines: Annotated[
        str | None, typer.Option(metavar="A,B", help="Scale by A + B * depth, 0 to 1 (LiNeS).")
    ] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="One rank for all modules, for servers that need it.")
    ] = False,
    scale: Annotated[float, typer.Option(help="Multiplies the merged delta, once.")] = 1.0,
    seed: Seed = 0,
    dtype: Dtype = None,
    importance: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="For klf: a map of rank units, once an adapter."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Needed only by --lines and by masks that go by depth, and for heads kept whole"
            " whose weights do not add up to 1."
        ),
    ] = None,
    out: Out = Path("merged-lora"),
    overwrite: Overwrite = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Merge adapters into one adapter; no base model is read.

    deltakit lora merge ./a ./b --mode svd --rank 16 --out ./ab

    deltakit lora merge ./a ./b ./c --mode ties --set density=0.5 --energy 0.99 --out ./abc
    """
    from deltakit.lora.cut import Size
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members
    from deltakit.tensors.checkpoint import Checkpoint

    auto = weights.startswith("auto:")
    given = [] if auto else numbers("--weights", weights)
    members = open_members(adapters, given, store_if_any(store))
    size = Size(rank, energy, uniform)
    with merging(members, size) as meter:
        report = merge_adapters(
            members,
            mode,
            out,
            overwrite=overwrite,
            settings=settings(set_ or []),
            mask=mask,
            weights=weights if auto else None,
            lines=parse_lines(lines),
            progress=meter.advance,
            size=size,
            scale=scale,
            seed=seed,
            dtype=dtype,
            importance=importance or [],
            base=None if base is None else Checkpoint.open(base),
        )
    emit(report, lambda: show_report(report, len(adapters)), as_json)
