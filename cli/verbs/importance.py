"""deltakit importance: measure which parameters matter to a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.maps import map_data, show_map
from deltakit_cli.options import Json, StorePath, hashing, is_given
from deltakit_cli.output import emit, say
from deltakit_cli.records import task_data

if TYPE_CHECKING:
    from deltakit.importance import ImportanceMap

PANEL = "Store"

KINDS = ["first", "second", "mixed", "fisher", "delta", "gram"]


def command(
    ctx: typer.Context,
    task: Annotated[
        str, typer.Argument(metavar="TASK|PATH", help="A task of the store, or a model's folder.")
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Labelled texts to measure on.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="With --data: the task's fine-tuned model.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="|".join(KINDS), help="By default first with --data, delta without."),
    ] = None,
    units: Annotated[
        str, typer.Option(metavar="tensor|head|row|element", help="What is scored one by one.")
    ] = "tensor",
    window: Annotated[
        str | None,
        typer.Option(metavar="all|N", help="Batches that count, by default about the last seven."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="For a PATH: the base model, to take the delta to.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="For a PATH: the file to write.")
    ] = None,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Measure a task's importance map, from labelled text or from its delta alone.

    The map of a TASK is kept with it in the store; that of a PATH is written to --out.
    """
    from deltakit.errors import BadValue, nearest

    kind = kind or ("delta" if data is None else "first")
    if kind not in KINDS:
        close = nearest(kind, KINDS)
        raise BadValue(
            f"unknown kind of importance {kind!r}",
            expected=", ".join(KINDS),
            remedy=f"did you mean {close!r}?" if close else None,
        )
    if (kind == "delta") != (data is None):
        raise typer.BadParameter(
            "--kind delta takes no --data" if data else f"--kind {kind} needs --data FILE.jsonl"
        )
    if units != "tensor" and kind in ("delta", "gram"):
        raise typer.BadParameter("--units goes with --kind first, second, mixed or fisher")
    if window is not None and kind in ("delta", "gram", "fisher"):
        raise typer.BadParameter("--window goes with --kind first, second or mixed")
    if model is not None and data is None:
        raise typer.BadParameter("--model goes with --data")
    if os.sep in task or task in (".", ".."):
        if is_given(ctx, "store"):
            raise typer.BadParameter("--store goes with a TASK; the map of a PATH goes to --out")
        _of_path(Path(task), data, model, kind, units, window, base, out, as_json)
        return
    if out is not None or base is not None:
        raise typer.BadParameter("--out and --base go with a PATH; a task's map is kept with it")
    _of_task(task, data, model, kind, units, window, store, as_json)


def _of_task(
    task: str,
    data: Path | None,
    model: Path | None,
    kind: str,
    units: str,
    window: str | None,
    store: Path | None,
    as_json: bool,
) -> None:
    from deltakit.errors import BadValue
    from deltakit.experts import open_source
    from deltakit.importance import importance_of_delta
    from deltakit.store import Store
    from deltakit.threads import one_torch_thread

    opened = Store.open(store, hashing=hashing)
    record = opened.task(task)
    if data is None:
        if record.base is None:
            raise BadValue(
                f"the adapter {task!r} was added without its base, so it has no delta to one",
                remedy=f"remove it, and add it again with --base NAME: deltakit rm {task}",
            )
        source, _ = opened.open_base(record.base)
        with one_torch_thread():
            found = importance_of_delta(open_source(record.delta_path), source, task=task)
    else:
        if model is None:
            raise typer.BadParameter("--data needs --model PATH, the fine-tuned model")
        found = _measure(model, data, task, kind, units, window)
    new = opened.attach_importance(task, _with_base(found, record.base_fingerprint))

    def render() -> None:
        say(f"{task} has a {kind} importance map now (revision {new.revision})")
        show_map(found)

    emit({**task_data(new), **map_data(found, kind)}, render, as_json)


def _of_path(
    path: Path,
    data: Path | None,
    model: Path | None,
    kind: str,
    units: str,
    window: str | None,
    base: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    from deltakit.experts import open_source
    from deltakit.importance import importance_of_delta
    from deltakit.tensors.checkpoint import Checkpoint
    from deltakit.threads import one_torch_thread

    if out is None:
        raise typer.BadParameter("a PATH needs --out FILE")
    if model is not None:
        raise typer.BadParameter("--model goes with a TASK; the PATH is the model")
    if data is None and base is None:
        raise typer.BadParameter("without --data, a PATH needs --base PATH")
    _check_out(out)
    source = None if base is None else Checkpoint.open(base)
    name = path.resolve().name
    if data is not None:
        found = _measure(path, data, name, kind, units, window)
    else:
        assert source is not None
        with one_torch_thread():
            found = importance_of_delta(open_source(path), source, task=name)
    _with_base(found, None if source is None else source.fingerprint()).save(out)

    def render() -> None:
        say(f"wrote the {kind} importance map of {path} to {out}")
        show_map(found)

    emit({"out": out, **map_data(found, kind)}, render, as_json)


def _check_out(out: Path) -> None:
    """Raise where a map cannot be written, before it is measured."""
    from deltakit.errors import AlreadyThere, NotFound

    if out.exists():
        raise AlreadyThere(
            "the file exists already", where=str(out), remedy="name another --out, or delete it"
        )
    if not out.absolute().parent.is_dir():
        raise NotFound(
            "there is no such folder to write to",
            where=str(out.parent),
            remedy="make it first, or name another --out",
        )


def _measure(
    model: Path, data: Path, task: str, kind: str, units: str, window: str | None
) -> ImportanceMap:
    from deltakit.learn.gram import gram
    from deltakit.learn.post_hoc import post_hoc

    if kind == "gram":
        return gram(model, data, task=task)
    finer = "" if units == "tensor" else f"-{units}"
    name = kind if kind == "fisher" else f"klf-{kind}"
    return post_hoc(model, data, task=task, kind=name + finer, window=window)


def _with_base(found: ImportanceMap, fingerprint: str | None) -> ImportanceMap:
    from deltakit.importance import ImportanceMap

    return ImportanceMap(
        found,
        task=found.task,
        units=found.units,
        score=found.score,
        base=fingerprint,
        provenance=found.provenance,
    )
