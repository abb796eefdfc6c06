"""deltakit show: everything known of one task."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, fields, fraction, say, shorten, size, table
from deltakit_cli.records import age, made_by, task_data, task_fields

PANEL = "Store"

TOP = 5  # units of importance shown


def command(
    task: Annotated[str, typer.Argument(help="A task of the store.")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Show a task: what it changes, how it is stored, and where it comes from."""
    from deltakit.delta import Delta
    from deltakit.store import Store

    record = Store.open(store).task(task)
    delta = Delta.open(record.delta_path)
    codecs = Counter(tensor.codec for tensor in delta.tensors.values())
    changed, total = len(delta.tensors), len(delta.new.infos)
    delta.close()
    units = [] if record.importance_path is None else top_units(record.importance_path)
    files = {name: record.manifest.files[name].size for name in record.at.names}
    data: dict[str, Any] = {
        **task_data(record),
        "tensors": total,
        "tensors_changed": changed,
        "codecs": codecs,
        "importance_top": units,
        "files": files,
    }

    def render() -> None:
        stored = ", ".join(f"{count} {codec}" for codec, count in sorted(codecs.items()))
        fields(
            [
                *task_fields(record),
                ("tensors", f"{changed} of {total} changed" + (f": {stored}" if stored else "")),
                ("revision", f"{record.revision}, {age(record.created)} ago ({record.created})"),
                *made_by(record.provenance),
            ]
        )
        say()
        say(f"in {record.folder}")
        rows = [[shorten(name, 60), size(nbytes)] for name, nbytes in files.items()]
        table(["file", "size"], rows, align="lr")
        if units:
            say()
            scores = [[name, fraction(score)] for name, score in units]
            table(["most important", "score"], scores, align="lr")

    emit(data, render, as_json)


def top_units(path: Path) -> list[tuple[str, float]]:
    """Return the parameters with the highest score, of a map of tensor units; else nothing."""
    from deltakit.tensors.reader import SafetensorsFile

    file = SafetensorsFile(path)
    scores = []
    if file.header.metadata.get("units") == "tensor":
        for name, info in file.header.infos.items():
            raw = bytearray(info.nbytes)
            file.read(name, 0, memoryview(raw))
            scores.append((name, struct.unpack("<f" if info.dtype == "F32" else "<d", raw)[0]))
    file.close()
    return sorted(scores, key=lambda item: (-item[1], item[0]))[:TOP]
