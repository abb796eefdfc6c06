"""deltakit add: keep what a fine-tuned model changed, or an adapter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.added_mask import choose_mask
from deltakit_cli.figures import seconds
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, fields, notes
from deltakit_cli.progress import progress
from deltakit_cli.records import task_data, task_fields

if TYPE_CHECKING:
    from deltakit.store import TaskRecord

PANEL = "Store"


def command(
    task: Annotated[str, typer.Argument(help="What to call the task.")],
    base: Annotated[
        str | None, typer.Option(help="The registered base it was fine-tuned from.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The fine-tuned model: a folder or one file.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Instead: a LoRA, a PEFT folder or a kohya file.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE,..]|FILE",
            help="Which entries to keep: see deltakit strategies.",
        ),
    ] = None,
    p: Annotated[float | None, typer.Option("--p", help="sotu: the share to drop.")] = None,
    density: Annotated[float | None, typer.Option(help="The share to keep instead.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of a random mask; by default 0.")] = None,
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
    """Store a fine-tuned model as its delta to a base, or a LoRA adapter as it is.

    deltakit add trec --base minilm --model ./ft-trec --mask sotu --p 0.9

    deltakit add style --base llama --adapter ./lora-style
    """
    if adapter is not None:
        thinned = (mask, p, density, seed, values_dtype)
        if model is not None or lossless or any(given is not None for given in thinned):
            raise typer.BadParameter(
                "--adapter keeps an adapter as it is: of the other options only --base and"
                " --importance go with it"
            )
        _add_adapter(task, adapter, base, importance, store, as_json)
        return
    if base is None or model is None:
        missing = "--base NAME" if base is None else "--model PATH"
        raise typer.BadParameter(f"{missing} is missing; or give --adapter PATH")
    from deltakit.dtypes import parse_dtype
    from deltakit.errors import BadFile
    from deltakit.lora import is_adapter
    from deltakit.store import Store
    from deltakit.tensors.checkpoint import Checkpoint

    if is_adapter(model):
        raise BadFile(
            "this is a LoRA adapter, and --model takes a full model",
            where=str(model),
            remedy=f"keep it as it is: deltakit add {task} --base {base} --adapter {model}",
        )
    opened = Store.open(store)
    dtype = None if values_dtype is None else parse_dtype(values_dtype)
    chosen = choose_mask(task, mask, p, density, seed)
    tuned = Checkpoint.open(model)
    total = 2 * sum(info.nbytes for info in tuned.infos.values())
    tuned.close()
    started = time.perf_counter()
    with progress("add", total) as meter:
        record = opened.add(
            task,
            base,
            model,
            lossless=lossless,
            mask=chosen,
            dtype=dtype,
            importance=importance,
            progress=meter.advance,
        )
    took = time.perf_counter() - started

    def render() -> None:
        fields([*task_fields(record), ("time", seconds(took))])
        _note_left_out(record)
        integers = record.provenance.get("integers_left")
        if integers:
            notes([f"integer tensors differ, and no merge will apply them: {integers}"])

    emit({**task_data(record), "seconds": took}, render, as_json)


def _add_adapter(
    task: str,
    adapter: Path,
    base: str | None,
    importance: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    from deltakit.store import Store

    record = Store.open(store).add_adapter(task, adapter, base=base, importance=importance)

    def render() -> None:
        fields(task_fields(record))
        _note_left_out(record)

    emit(task_data(record), render, as_json)


def _note_left_out(record: TaskRecord) -> None:
    left_out = record.provenance.get("left_out")
    if left_out:
        notes([f"files of the folder that are not kept: {left_out}"])
