"""deltakit unify: many tasks as one delta and a bit an entry for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli import merge_options as options
from deltakit_cli.figures import size
from deltakit_cli.lists import numbers
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit, fields, say
from deltakit_cli.progress import progress

PANEL = "Merge"


def command(
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASK|PATH", help="As of merge: tasks, models, deltas; name=PATH."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    base: options.Base = None,
    weights: Annotated[str, typer.Option(metavar="1,0.5", help="One weight a task.")] = "",
    scope: Annotated[
        str, typer.Option(metavar="global|tensor", help="One rescaler a task, or one a tensor.")
    ] = "global",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what unify wrote to --out earlier.")
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Keep all tasks in one delta and a mask of one bit an entry each (EMR-Merging).

    deltakit unify trec sms --out emr; deltakit merge emr/trec.safetensors -s task_arithmetic ..
    """
    import torch  # noqa: F401  takes seconds: not part of what the bar measures

    from deltakit.unify import plan_unify, unify

    plan = plan_unify(
        tasks,
        base=base,
        store=store_if_any(store),
        weights=numbers("--weights", weights),
        scope=scope,
    )
    with progress("unify", plan.bytes_out) as meter:
        done = unify(plan, out, overwrite=overwrite, progress=meter.advance)

    def render() -> None:
        say(f"{len(done.files)} tasks are in {out} now")
        sizes = size(done.unified_bytes), f"{size(done.mask_bytes)} each"
        fields([("the unified delta", sizes[0]), ("the tasks' masks", sizes[1])])
        say()
        fields([("one task's model", " ".join(_rebuild(out, done.files, plan.recipe.base)))])

    emit(done, render, as_json)


def _rebuild(out: Path, files: Mapping[str, str], base: str) -> list[str]:
    first = next(iter(files.values()))
    return ["deltakit", "merge", f"{out / first}", "--base", base, "-s", "task_arithmetic"]
