"""deltakit lora: adapters merged, baked, resized and converted, from their factors alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.lists import numbers, settings
from deltakit_cli.options import Json, store_if_any
from deltakit_cli.output import emit, note, say, seconds, size, table
from deltakit_cli.progress import progress

if TYPE_CHECKING:
    from deltakit.lora.checks import ModuleCheck
    from deltakit.lora.record import Report

PANEL = "Merge"

app = typer.Typer(no_args_is_help=True, help="Merge, bake, resize and convert LoRA adapters.")

Adapters = Annotated[
    list[str],
    typer.Argument(metavar="ADAPTER", help="PEFT folders or kohya files; name=PATH renames."),
]
One = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A PEFT folder or a kohya file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Weights = Annotated[
    str, typer.Option(metavar="1,0.5", help="One weight an adapter, separated by commas.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the mode; repeat it."),
]
Rank = Annotated[int | None, typer.Option(help="The rank of every module of the result.")]
Energy = Annotated[
    float | None, typer.Option(help="Instead of a rank: the share of the energy to keep, as .99.")
]
Seed = Annotated[int, typer.Option(help="Seed of all random masks.")]
Dtype = Annotated[str | None, typer.Option(help="The output's dtype; by default the inputs'.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what deltakit wrote to --out earlier.")
]


@app.command("merge")
def merge(
    adapters: Adapters,
    mode: Annotated[
        str,
        typer.Option("--mode", "-m", help="cat, svd, linear, core_space, knots, klf, a strategy."),
    ] = "svd",
    weights: Weights = "",
    rank: Rank = None,
    energy: Energy = None,
    set_: Settings = None,
    scale: Annotated[float, typer.Option(help="Multiplies the merged delta, once.")] = 1.0,
    seed: Seed = 0,
    dtype: Dtype = None,
    importance: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="For klf: a map of rank units, once an adapter."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="Needed only for heads kept whole whose weights do not add up to 1."),
    ] = None,
    out: Out = Path("merged-lora"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Merge adapters into one adapter; no base model is read.

    deltakit lora merge ./a ./b --mode svd --rank 16 --out ./ab

    deltakit lora merge ./a ./b ./c --mode ties --set density=0.5 --energy 0.99 --out ./abc
    """
    from deltakit.lora.cut import Size
    from deltakit.lora.merge import merge_adapters
    from deltakit.lora.opening import open_members
    from deltakit.tensors.checkpoint import Checkpoint

    report = merge_adapters(
        open_members(adapters, numbers("--weights", weights)),
        mode,
        out,
        overwrite=overwrite,
        settings=settings(set_ or []),
        size=Size(rank, energy),
        scale=scale,
        seed=seed,
        dtype=dtype,
        importance=importance or [],
        base=None if base is None else Checkpoint.open(base),
    )
    emit(report, lambda: show_report(report, len(adapters)), as_json)


@app.command("bake")
def bake(
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
    as_json: Json = False,
) -> None:
    """Bake one or many adapters into their base, tensor by tensor, rounded once.

    deltakit lora bake ./a ./b --base ./llama --weights 1,0.5 --out ./llama-ab
    """
    from deltakit.engine import execute
    from deltakit.merging import plan_merge
    from deltakit_cli.verbs.merge import show_report as show_merged

    plan = plan_merge(
        adapters,
        strategy,
        base=base,
        store=store_if_any(None),
        settings=settings(set_ or []),
        weights=numbers("--weights", weights),
        scale=scale,
        seed=seed,
        dtype=dtype,
    )
    with progress("bake", plan.bytes_out) as meter:
        report = execute(plan, out, overwrite=overwrite, progress=meter.advance)
    emit(report, lambda: show_merged(plan, report), as_json)


@app.command("resize")
def resize(
    adapter: One,
    rank: Rank = None,
    energy: Energy = None,
    dtype: Dtype = None,
    out: Out = Path("resized-lora"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Bring an adapter to another rank: the nearest there is, and what it loses.

    deltakit lora resize ./a --energy 0.99 --out ./a-small
    """
    from deltakit.lora.cut import Size
    from deltakit.lora.merge import merge_adapters
    from deltakit.lora.opening import open_members

    if rank is None and energy is None:
        raise typer.BadParameter("--rank K or --energy E is missing")
    report = merge_adapters(
        open_members([str(adapter)]),
        "svd",
        out,
        overwrite=overwrite,
        size=Size(rank, energy),
        dtype=dtype,
    )
    emit(report, lambda: show_report(report, 1), as_json)


@app.command("convert")
def convert(
    adapter: One,
    to: Annotated[str, typer.Option(metavar="peft|kohya", help="What to write.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder, or kohya file, to write.")],
    base: Annotated[
        Path | None, typer.Option(help="From kohya: the model, for the names of its modules.")
    ] = None,
    scope: Annotated[str, typer.Option(help="To kohya: what its names begin with.")] = "lora_unet",
    as_json: Json = False,
) -> None:
    """Convert between PEFT's folders and kohya's files; the numbers stay as they are.

    deltakit lora convert ./style.safetensors --to peft --base ./unet --out ./style
    """
    from deltakit.lora.kohya import dotted, write_kohya
    from deltakit.lora.merge import merge_adapters
    from deltakit.lora.opening import open_adapter
    from deltakit.lora.union import Member
    from deltakit.tensors.checkpoint import Checkpoint

    opened = open_adapter(adapter)
    if to == "kohya":
        write_kohya(opened, out, scope=scope)
    elif to == "peft":
        if opened.flat:
            if base is None:
                raise typer.BadParameter(
                    "kohya's names have lost their dots: --base PATH is needed"
                )
            names = Checkpoint.open(base).infos
            opened = dotted(opened, [n.removesuffix(".weight") for n in names])
        merge_adapters([Member(adapter.stem, opened)], "cat", out)
    else:
        raise typer.BadParameter(f"--to {to}: expected peft or kohya")
    emit(
        {"out": out, "modules": len(opened.parts)},
        lambda: say(f"wrote {len(opened.parts)} modules to {out}"),
        as_json,
    )


def show_report(report: Report, adapters: int) -> None:
    """Print what was written and how exact it is."""
    ranks = report.ranks
    span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    many = f"{adapters} adapters" if adapters > 1 else "1 adapter"
    say(
        f"merged {many} with {report.mode} into {report.out}: {len(report.modules)} modules,"
        f" {size(report.nbytes)}, {seconds(report.seconds)}"
    )
    total = report.summary
    say(
        f"rank {span} keeps {total.kept:.1%} of the energy;"
        f" relative error against the exact weighted sum {total.error:.2g}"
    )
    if total.kept < 0.9995 or total.error > 1e-3:
        table(["worst", "rank", "kept", "error"], map(_row, total.worst), align="lr")
    if report.kept:
        say(f"kept whole, merged by the same weights: {len(report.kept)} tensors")
    for text in report.notes:
        note(f"note: {text}")


def _row(check: ModuleCheck) -> list[str]:
    return [check.module, f"{check.rank}", f"{check.kept:.1%}", f"{check.error:.2g}"]
