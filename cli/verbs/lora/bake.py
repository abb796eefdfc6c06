"""deltakit lora bake: adapters into their base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.lists import numbers, settings
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit
from deltakit_cli.progress import progress
from deltakit_cli.verbs.lora._options import (
    Adapters,
    Dtype,
    Out,
    Overwrite,
    Seed,
    Settings,
    Weights,
)


def command(
    adapters: Adapters,
    base: Annotated[str, typer.Option(help="The base model: a path, or its name in the store.")],
    weights: Weights = "",
    strategy: Annotated[
        str, typer.Option("--strategy", "-s", help="How several are merged; by default added.")
    ] = "task_arithmetic",
    set_: Settings = None,
    scale: Annotated[float, typer.Option(help="Multiplies the merged delta, once.")] = 1.0,
    seed: Seed = 0,
    dtype: Dtype = None,
    out: Out = Path("baked"),
    overwrite: Overwrite = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Bake one or many adapters into their base, tensor by tensor, rounded once.

    deltakit lora bake ./a ./b --base ./llama --weights 1,0.5 --out ./llama-ab
    """
    from deltakit.engine import execute
    from deltakit.merging import plan_merge
    from deltakit_cli.plans import show_report as show_merged

    plan = plan_merge(
        adapters,
        strategy,
        base=base,
        store=store_if_any(store),
        settings=settings(set_ or []),
        weights=numbers("--weights", weights),
        scale=scale,
        seed=seed,
        dtype=dtype,
    )
    with progress("bake", plan.bytes_out) as meter:
        report = execute(plan, out, overwrite=overwrite, progress=meter.advance)
    emit(report, lambda: show_merged(plan, report), as_json)
