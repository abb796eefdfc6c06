"""deltakit lora extract: a LoRA out of a full fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltakit_cli.figures import size
from deltakit_cli.options import Json
from deltakit_cli.output import emit, notes, say, table
from deltakit_cli.progress import progress
from deltakit_cli.verbs.lora._options import Dtype, Energy, Out, Overwrite, Rank
from deltakit_cli.verbs.lora._report import show_report

if TYPE_CHECKING:
    from deltakit.lora.extraction import Extraction


def command(
    base: Annotated[Path, typer.Option(help="The base model's folder.")],
    model: Annotated[Path, typer.Option(help="The fine-tuned model's folder.")],
    rank: Rank = None,
    energy: Energy = None,
    most: Annotated[
        str | None, typer.Option("--size", metavar="50MB", help="Instead: the factors' bytes.")
    ] = None,
    rest: Annotated[
        str,
        typer.Option(
            metavar="save|drop|refuse",
            help="What no LoRA holds (embeddings, norms, biases): kept whole, left, or an error.",
        ),
    ] = "save",
    dtype: Dtype = None,
    out: Out = Path("extracted-lora"),
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show quality by size, write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a LoRA of a full fine-tune: the nearest low-rank delta, the rest kept whole.

    deltakit lora extract --base ./llama --model ./tuned --energy 0.9 --dry-run

    deltakit lora extract --base ./llama --model ./tuned --size 50MB --out ./lora
    """
    from deltakit.lora.cut import Size
    from deltakit.lora.extract import extract as write
    from deltakit.lora.extraction import plan_extract
    from deltakit.sizes import parse_size

    if rest not in ("save", "drop", "refuse"):
        raise typer.BadParameter(f"--rest {rest}: expected save, drop or refuse")
    with progress("look", 2 * _bytes(base)) as meter:
        plan = plan_extract(
            base,
            model,
            size=Size(rank, energy),
            nbytes=None if most is None else parse_size(most),
            rest=rest,  # type: ignore[arg-type]
            dtype=dtype,
            look=dry_run,
            out=None if dry_run else out,
            overwrite=overwrite,
            progress=meter.advance,
        )
    if dry_run:
        emit(extraction_data(plan), lambda: show_extraction(plan), as_json)
        return
    with progress("extract", 2 * _bytes(base)) as meter:
        report = write(plan, out, overwrite=overwrite, progress=meter.advance)
    emit(report, lambda: show_report(report, 1), as_json)


def _bytes(base: Path) -> int:
    from deltakit.tensors.checkpoint import Checkpoint

    return sum(info.nbytes for info in Checkpoint.open(base).infos.values())


def extraction_data(plan: Extraction) -> dict[str, Any]:
    """Return quality by size, and what is not low-rank, as data."""
    return {
        "table": [{"what": a, "nbytes": b, "kept": c} for a, b, c in plan.table()],
        "modules": len(plan.ranks),
        "kept_whole": len(plan.whole),
        "worst": [{"module": m, "rank": rank, "kept": kept} for m, rank, kept in worst(plan)],
        "notes": plan.notes,
    }


def worst(plan: Extraction) -> list[tuple[str, int, float]]:
    """Return the modules that lose most, each with its rank and the share of energy it keeps."""
    modules = [
        (found.module, plan.ranks[found.name], found.kept(plan.ranks[found.name]) / found.energy)
        for found in plan.changed
        if found.name in plan.ranks
    ]
    return sorted(modules, key=lambda module: module[2])[:3]


def show_extraction(plan: Extraction) -> None:
    """Print quality by size, and what is not low-rank."""
    rows = [
        [what, size(nbytes), "-" if kept is None else f"{kept:.1%}"]
        for what, nbytes, kept in plan.table()
    ]
    table(["rank", "size", "energy kept"], rows, align="lrr")
    say(f"{len(plan.ranks)} modules get factors, {len(plan.whole)} parameters are kept whole")
    for module, rank, kept in worst(plan):
        say(f"worst {module}: rank {rank} keeps {kept:.1%}")
    notes(plan.notes)
    say("nothing was written (--dry-run)")
