"""deltakit show: everything known of one task."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltakit_cli.figures import fraction, size
from deltakit_cli.options import Json, StorePath
from deltakit_cli.output import emit, fields, say, table
from deltakit_cli.records import age, made_by, task_data, task_fields

if TYPE_CHECKING:
    from deltakit.store import TaskRecord

PANEL = "Store"

TOP = 5  # units of importance shown


def command(
    task: Annotated[str, typer.Argument(help="A task of the store.")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Show a task: what it changes, how it is stored, and where it comes from."""
    from deltakit.store import Store

    record = Store.open(store).task(task)
    holds = adapter_data(record) if record.role == "adapter" else delta_data(record)
    units = [] if record.importance_path is None else top_units(record.importance_path)
    files = {name: record.manifest.files[name].size for name in record.at.names}
    data: dict[str, Any] = {
        **task_data(record),
        **holds,
        "importance_top": units,
        "files": files,
    }

    def render() -> None:
        fields(
            [
                *task_fields(record),
                *(adapter_fields(holds) if record.role == "adapter" else delta_fields(holds)),
                ("revision", f"{record.revision}, {age(record.created)} ago ({record.created})"),
                *made_by(record.provenance),
            ]
        )
        say()
        say(f"in {record.folder}")
        rows = [[name, size(nbytes)] for name, nbytes in files.items()]
        table(["file", "size"], rows, align="lr")
        if units:
            say()
            scores = [[name, fraction(score)] for name, score in units]
            table(["most important", "score"], scores, align="lr")

    emit(data, render, as_json)


def delta_data(record: TaskRecord) -> dict[str, Any]:
    """Return what the delta's header tells, as data."""
    from deltakit.delta import Delta

    delta = Delta.open(record.delta_path)
    delta.close()
    return {
        "tensors": len(delta.new.infos),
        "tensors_changed": len(delta.tensors),
        "codecs": Counter(tensor.codec for tensor in delta.tensors.values()),
    }


def delta_fields(holds: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the same for a reader, as name and text."""
    stored = ", ".join(f"{count} {codec}" for codec, count in sorted(holds["codecs"].items()))
    changed = f"{holds['tensors_changed']} of {holds['tensors']} changed"
    return [("tensors", changed + (f": {stored}" if stored else ""))]


def adapter_data(record: TaskRecord) -> dict[str, Any]:
    """Return what the adapter's header and config tell, as data."""
    from deltakit.lora import open_adapter

    adapter = open_adapter(record.delta_path)
    adapter.close()
    parts = adapter.parts.values()
    return {
        "modules": len(parts),
        "ranks": sorted({part.rank for part in parts}),
        "scalings": sorted({part.scaling for part in parts}),
        "kept_whole": sorted([*adapter.whole, *adapter.rows]),
        "dtypes": adapter.dtypes,
    }


def adapter_fields(holds: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the same for a reader, as name and text."""
    ranks = ", ".join(f"{rank}" for rank in holds["ranks"])
    scalings = ", ".join(f"{scaling:g}" for scaling in holds["scalings"])
    kept = len(holds["kept_whole"])
    return [
        ("modules", f"{holds['modules']} of rank {ranks}, scaling {scalings}"),
        *([("kept whole", f"{kept} parameters")] if kept else []),
        ("dtypes", ", ".join(holds["dtypes"])),
    ]


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
