"""deltakit base: the models that deltas are taken to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltakit_cli.figures import size
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, say, table
from deltakit_cli.progress import progress

if TYPE_CHECKING:
    from deltakit.store import BaseRecord

PANEL = "Store"

app = typer.Typer(no_args_is_help=True, help="Register base models, and list them.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call the base.")],
    path: Annotated[Path, typer.Argument(help="A model folder, or a .safetensors file.")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Register a base model: read it once, and remember what it is.

    A base that has moved is registered again under its name, with its new path.
    """
    from deltakit.store import Store
    from deltakit.tensors.checkpoint import Checkpoint

    opened = Store.open(store)
    model = Checkpoint.open(path)
    total = sum(info.nbytes for info in model.infos.values())
    model.close()
    with progress("hash", total) as meter:
        record = opened.add_base(name, path, progress=meter.advance)
    emit(
        base_data(record),
        lambda: say(
            f"registered {name}: {len(record.table.infos)} tensors, {size(record.nbytes)},"
            f" fingerprint {record.fingerprint[:16]}"
        ),
        as_json,
    )


@app.command("ls")
def ls(store: StorePath = None, as_json: Json = False) -> None:
    """List the registered bases."""
    from deltakit.store import Store

    records = list(Store.open(store).bases().values())

    def render() -> None:
        rows = [[r.name, size(r.nbytes), r.fingerprint[:16], str(r.path)] for r in records]
        table(["base", "size", "fingerprint", "path"], rows, align="lrll")

    emit([base_data(record) for record in records], render, as_json)


def base_data(record: BaseRecord) -> dict[str, Any]:
    """Return what the store knows of a base, as data."""
    return {
        "base": record.name,
        "path": record.path,
        "fingerprint": record.fingerprint,
        "tensors": len(record.table.infos),
        "nbytes": record.nbytes,
        "created": record.created,
    }
