"""deltakit merge: tasks or models in, one model folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from deltakit_cli import merge_options as options
from deltakit_cli.change import plan_change
from deltakit_cli.lists import lines as parse_lines
from deltakit_cli.lists import numbers, with_density
from deltakit_cli.lists import settings as parse_settings
from deltakit_cli.options import Json, StorePath, is_given, store_if_any
from deltakit_cli.output import emit, note
from deltakit_cli.plans import plan_data, show_plan, show_report
from deltakit_cli.progress import progress
from deltakit_cli.recipes import AllowCode, plan_file

PANEL = "Merge"


def command(
    ctx: typer.Context,
    tasks: options.Names = None,
    strategy: options.Strategy = "",
    base: options.Base = None,
    out: options.Out = Path("merged"),
    settings: options.Settings = None,
    weights: options.Weights = "",
    mask: options.MaskName = None,
    density: options.Density = None,
    lines: options.Lines = None,
    scale: options.Scale = 1.0,
    exclude: options.Exclude = None,
    heads: options.Heads = None,
    importance: options.Maps = None,
    seed: options.Seed = 0,
    dtype: options.Dtype = None,
    accumulate: options.Accumulate = None,
    tokenizer: options.Tokenizer = None,
    recipe: options.RecipePath = None,
    save_recipe: options.SaveRecipe = None,
    onto: options.Onto = None,
    without: options.Without = None,
    keep_state: options.KeepState = False,
    max_shard_size: options.ShardSize = "5GB",
    threads: options.Threads = None,
    block_size: options.BlockSize = None,
    memory: options.Memory = None,
    device: options.OnDevice = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    allow_nonfinite: options.AllowNonfinite = False,
    allow_code: AllowCode = False,
    dry_run: options.DryRun = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Merge tasks or models into one model.

    deltakit merge trec sms rt --strategy klf --out merged

    deltakit merge ./ft-a ./ft-b --base ./base --strategy ties --set density=0.3

    deltakit merge ./ft-a ./chat-b --base ./base -s ties --tokenizer union

    deltakit merge ./ft-a ./ft-b --base ./base -s ties --keep-state

    deltakit merge --onto ./merged ./ft-c --out ./merged-abc

    deltakit merge --recipe recipe.yaml --out merged
    """
    from deltakit.engine import Limits, check_execution, execute
    from deltakit.merging import plan_merge
    from deltakit.sizes import parse_size

    if dry_run and save_recipe is not None:
        raise typer.BadParameter("--dry-run writes nothing, and so no --save-recipe")
    limits = Limits(threads, block_size, None if memory is None else parse_size(memory))
    given = [name for key, name in options.FIXED.items() if is_given(ctx, key)]
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
            [name for name in given if name != "--recipe"],
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
            accumulate=accumulate,
            tokenizer=tokenizer,
            max_shard_size=parse_size(max_shard_size),
            limits=limits,
            keep_state=keep_state,
        )
    if save_recipe is not None:
        plan.recipe.write(save_recipe)
        told = f"wrote {save_recipe}; merge it: deltakit merge --recipe {save_recipe}"
        emit({"saved": save_recipe}, lambda: note(told), as_json)
        return
    how: dict[str, Any] = {
        "overwrite": overwrite,
        "device": device,
        "resume": resume,
        "allow_nonfinite": allow_nonfinite,
    }
    if dry_run:
        check_execution(plan, out, **how)
        emit(plan_data(plan, out), lambda: show_plan(plan, out), as_json)
        return
    with progress("merge", plan.bytes_out + plan.state_bytes) as meter:
        report = execute(plan, out, progress=meter.advance, **how)
    emit(report, lambda: show_report(plan, report), as_json)
