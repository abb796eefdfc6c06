"""deltakit add: keep what a fine-tuned model changed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, fields, note, seconds
from deltakit_cli.progress import progress
from deltakit_cli.records import task_data, task_fields

if TYPE_CHECKING:
    from deltakit.mask import Mask

PANEL = "Store"


def command(
    task: Annotated[str, typer.Argument(help="What to call the task.")],
    base: Annotated[str, typer.Option(help="The registered base it was fine-tuned from.")],
    model: Annotated[Path, typer.Option(help="The fine-tuned model: a folder or one file.")],
    mask: Annotated[
        str | None,
        typer.Option(metavar="sotu|magnitude|FILE", help="Which entries of the delta to keep."),
    ] = None,
    p: Annotated[float | None, typer.Option("--p", help="sotu: the share to drop.")] = None,
    density: Annotated[float | None, typer.Option(help="The share to keep instead.")] = None,
    seed: Annotated[int | None, typer.Option(help="sotu: seed of the mask; by default 0.")] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Keep what restores the model bit for bit.")
    ] = False,
    values_dtype: Annotated[
        str | None,
        typer.Option(help="Store values as this, as float32; by default as the model does."),
    ] = None,
    importance: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An importance map to keep with it.")
    ] = None,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Store a fine-tuned model as its delta to a base.

    deltakit add trec --base minilm --model ./ft-trec --mask sotu --p 0.9
    """
    from deltakit.store import Store
    from deltakit.tensors.checkpoint import Checkpoint
    from deltakit.tensors.dtypes import parse_dtype

    if mask not in ("sotu", "magnitude") and not (p is None and density is None):
        raise typer.BadParameter("--p and --density go with --mask sotu or --mask magnitude")
    if mask != "sotu" and not (p is None and seed is None):
        raise typer.BadParameter("--p and --seed go with --mask sotu")
    opened = Store.open(store)
    dtype = None if values_dtype is None else parse_dtype(values_dtype)
    chosen = choose_mask(task, mask, p, density, seed or 0)
    tuned = Checkpoint.open(model)
    total = 2 * sum(info.nbytes for info in tuned.infos.values())
    tuned.close()
    import torch  # noqa: F401  takes seconds: not part of what is measured

    started = time.perf_counter()
    with progress("add", total) as meter:
        record = opened.add(
            task,
            base,
            model,
            lossless=lossless,
            mask=chosen,
            density=density if chosen == "magnitude" else None,
            dtype=dtype,
            importance=importance,
            progress=meter.advance,
        )
    took = time.perf_counter() - started

    def render() -> None:
        fields([*task_fields(record), ("time", seconds(took))])
        left_out = record.provenance.get("left_out")
        if left_out:
            note(f"note: files of the folder that are not kept: {left_out}")
        integers = record.provenance.get("integers_left")
        if integers:
            note(f"note: integer tensors differ, and no merge will apply them: {integers}")

    emit({**task_data(record), "seconds": took}, render, as_json)


def choose_mask(
    task: str, mask: str | None, p: float | None, density: float | None, seed: int
) -> Mask | Literal["magnitude"] | None:
    """Return the mask that the options describe."""
    from deltakit.errors import BadValue, NotFound, nearest
    from deltakit.mask import Mask
    from deltakit.ops import kept_density

    if mask is None:
        return None
    if mask == "magnitude":
        if density is None:
            raise typer.BadParameter("--mask magnitude needs --density")
        return "magnitude"
    if mask == "sotu":
        if (p is None) == (density is None):
            raise typer.BadParameter("--mask sotu needs either --p or --density, and not both")
        if p is not None:
            if not 0.0 <= p < 1.0:
                raise BadValue(
                    "the drop rate is outside [0, 1)",
                    where="--p",
                    got=f"{p:g}",
                    remedy="drop less than everything, as --p 0.9",
                )
            density = kept_density(p)
        assert density is not None
        return Mask.random(density, seed, task)
    if not Path(mask).exists():
        close = nearest(mask, ["sotu", "magnitude"])
        raise NotFound(
            f"no mask {mask!r}",
            expected="sotu, magnitude, or a mask's file",
            remedy=f"did you mean {close!r}?" if close else "check the path",
        )
    return Mask.open(mask)
