"""deltakit restore: the fine-tuned model back, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltakit_cli.figures import size
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, fields, say
from deltakit_cli.progress import progress
from deltakit_cli.records import count

PANEL = "Store"


def command(
    task: Annotated[str, typer.Argument(help="A task added with --lossless or --adapter.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder of this task's files.")
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Write the model that a task was added from, and prove that it is the same."""
    from deltakit.store import Store

    opened = Store.open(store)
    total = opened.task(task).model_nbytes

    with progress("restore", total) as meter:
        proof = opened.restore(task, out, overwrite=overwrite, progress=meter.advance)

    def render() -> None:
        say(f"restored {task} into {out}, bit for bit")
        for file in proof.files:
            say()
            say(f"{file.name}, {size(file.nbytes)}, blake3")
            fields([("  when added", file.added), ("  written now", file.written)])
        say()
        say("fingerprint of the model")
        fields(
            [
                ("  when added", proof.fingerprint_added),
                ("  written now", proof.fingerprint_written),
            ]
        )
        if proof.beside:
            say(f"and {count(len(proof.beside), 'file')} beside: {', '.join(proof.beside)}")

    emit(proof, render, as_json)
