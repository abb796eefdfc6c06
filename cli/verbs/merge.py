"""deltakit merge: tasks or models in, one model folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.change import plan_change
from deltakit_cli.lists import lines as parse_lines
from deltakit_cli.lists import numbers, with_density
from deltakit_cli.lists import settings as parse_settings
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit, note
from deltakit_cli.plans import plan_data, show_plan, show_report
from deltakit_cli.progress import progress
from deltakit_cli.recipes import AllowCode, plan_file

PANEL = "Merge"

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TASK|PATH",
        help="Tasks of the store, or paths of models, adapters or delta files; name=PATH renames.",
        show_default=False,
    ),
]


def command(
    tasks: Names = None,
    strategy: Annotated[
        str,
        typer.Option("--strategy", "-s", help="See: deltakit strategies; or FILE.py:Class."),
    ] = "",
    base: Annotated[
        str | None, typer.Option(help="The base model: a path, or its name in the store.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("merged"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy; repeat it."),
    ] = None,
    weights: Annotated[
        str, typer.Option(metavar="1,0.5", help="One weight a task, or auto:NAME to find them.")
    ] = "",
    mask: Annotated[
        str | None,
        typer.Option(metavar="NAME[:KEY=VALUE,..]", help="Thin each delta first, as random."),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="The fraction that --mask keeps of each delta.")
    ] = None,
    lines: Annotated[
        str | None, typer.Option(metavar="A,B", help="Scale by A + B * depth, 0 to 1 (LiNeS).")
    ] = None,
    scale: Annotated[float, typer.Option(help="Multiplies the merged delta, once.")] = 1.0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Tensors to keep as in the base; repeat it."),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Tensors that each task keeps, beside the result."),
    ] = None,
    importance: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An importance map, once a task, in their order."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random masks.")] = 0,
    dtype: Annotated[
        str | None, typer.Option(help="The output's dtype, as bfloat16; by default the base's.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="base|union|PATH", help="The output's tokens, where models' tokenizers differ."
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Merge as this recipe (YAML or JSON), or merged folder, says."),
    ] = None,
    save_recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only write the recipe, as .yaml or .json, to edit."),
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(
            metavar="MERGED", help="Add the tasks to this merged model; see --keep-state."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Take a task out of --onto MERGED; repeat it."),
    ] = None,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep what a later --onto adds tasks to.")
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="Largest output file.")] = "5GB",
    threads: Annotated[
        int | None, typer.Option(help="Threads; by default one a core, to 4.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Entries worked on at a time by a thread.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Scratch memory at most, as 512MB.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cuda|mps", help="Sum and round on this device.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier merge in --out.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep finished files if interrupted, and go on from them."),
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity through.")
    ] = False,
    allow_code: AllowCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, write nothing.")
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Merge tasks or models into one model.

    deltakit merge trec sms rt --strategy klf --out merged

    deltakit merge ./ft-a ./ft-b --base ./base --strategy ties --set density=0.3

    deltakit merge ./ft-a ./chat-b --base ./base -s ties --tokenizer union

    deltakit merge --onto ./merged ./ft-c --out ./merged-abc

    deltakit merge --recipe recipe.yaml --out merged   # rules per tensor: docs/recipes.md
    """
    from deltakit.engine import Limits
    from deltakit.merging import plan_merge
    from deltakit.sizes import parse_size

    limits = Limits(threads, block_size, None if memory is None else parse_size(memory))
    values = {
        "TASK": tasks,
        "--strategy": strategy,
        "--base": base,
        "--set": settings,
        "--weights": weights,
        "--mask": mask,
        "--density": density,
        "--lines": lines,
        "--scale": scale != 1.0,
        "--exclude": exclude,
        "--heads": heads,
        "--importance": importance,
        "--seed": seed,
        "--dtype": dtype,
        "--tokenizer": tokenizer,
        "--max-shard-size": max_shard_size != "5GB",
        "--recipe": recipe,
    }
    given = [name for name, value in values.items() if value]
    if onto is not None or without:
        plan = plan_change(
            onto,
            without or [],
            given,
            tasks=tasks or [],
            base=base,
            weights=weights,
            importance=importance or [],
            store=store_if_any(store),
            limits=limits,
            allow_code=allow_code,
            keep_state=keep_state,
        )
    elif recipe is not None:
        plan = plan_file(
            recipe,
            given[:-1],
            store=store_if_any(store),
            limits=limits,
            allow_code=allow_code,
            keep_state=keep_state,
        )
    else:
        if not tasks or not strategy:
            missing = "--strategy NAME" if tasks else "TASK|PATH"
            raise typer.BadParameter(f"{missing} is missing; or give --recipe FILE")
        plan = plan_merge(
            tasks,
            strategy,
            base=base,
            store=store_if_any(store),
            settings=parse_settings(settings or []),
            weights=weights if weights.startswith("auto:") else numbers("--weights", weights),
            mask=with_density(mask, density),
            lines=parse_lines(lines),
            exclude=exclude or [],
            heads=heads or [],
            importance=importance or [],
            scale=scale,
            seed=seed,
            dtype=dtype,
            tokenizer=tokenizer,
            max_shard_size=parse_size(max_shard_size),
            limits=limits,
            keep_state=keep_state,
        )
    if save_recipe is not None:
        plan.recipe.write(save_recipe)
        note(f"wrote {save_recipe}; merge it: deltakit merge --recipe {save_recipe}")
        return
    if dry_run:
        emit(plan_data(plan, out), lambda: show_plan(plan, out), as_json)
        return
    from deltakit.engine import execute

    with progress("merge", plan.bytes_out + plan.state_bytes) as meter:
        report = execute(
            plan,
            out,
            overwrite=overwrite,
            device=device,
            resume=resume,
            allow_nonfinite=allow_nonfinite,
            progress=meter.advance,
        )
    emit(report, lambda: show_report(plan, report), as_json)
