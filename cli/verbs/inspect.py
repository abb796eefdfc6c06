"""deltakit inspect: how tasks differ from their base and from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from deltakit_cli.figures import count, fraction, size
from deltakit_cli.options import Json, StorePath, store_if_any
from deltakit_cli.output import emit, notes, say, table
from deltakit_cli.overlap import all_adapters, show_overlap
from deltakit_cli.progress import progress

if TYPE_CHECKING:
    from deltakit.inspect import Group, HeaderReport, Report
    from deltakit.store import Store

PANEL = "Look"

ACROSS = 6  # tasks side by side in 80 columns


def command(
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK|PATH",
            help="Tasks of the store, or paths of models, adapters or deltas; name=PATH renames.",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(metavar="PATH|NAME", help="The base model: a path, or its name in the store."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read headers only: density, size and role.")
    ] = False,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Show how tasks differ from their base, and from each other.

    Density, norm, overlap, cosine and sign conflict, by task, pair, layer and kind of module. All
    weights are read once. --json also has every parameter. Adapters need no base: their cosines
    and the overlap of their spaces come from their factors.

    deltakit inspect trec sms rt

    deltakit inspect ./ft-a ./ft-b --base ./base

    deltakit inspect ./lora-a ./lora-b
    """
    if fast and base is not None:
        raise typer.BadParameter("--fast reads headers alone, and so no --base")
    found = store_if_any(store)
    if fast:
        headers = [_read_header(name, found) for name in tasks]
        emit(headers, lambda: show_headers(headers), as_json)
        return
    if base is None and all_adapters(tasks, found):
        from deltakit.lora.overlap import overlap
        from deltakit.members import open_members

        figures = overlap(open_members(tasks, store=found))
        emit(figures, lambda: show_overlap(figures), as_json)
        return
    report = _compare(tasks, base, found)
    emit(report, lambda: show_report(report), as_json)


def _compare(names: list[str], base: str | None, store: Store | None) -> Report:
    import torch  # noqa: F401  takes seconds: not part of what the bar measures

    from deltakit.errors import AlreadyThere
    from deltakit.experts import resolve
    from deltakit.inspect import bytes_to_read, compare

    found = resolve(names, base, store)
    tasks = {expert.name: expert.source for expert in found.experts}
    if len(tasks) < len(found.experts):
        twice = [e.name for e in found.experts]
        raise AlreadyThere(
            "two tasks have one name",
            got=", ".join(twice),
            remedy="name one of them otherwise: other=PATH",
        )
    total = bytes_to_read(found.base, list(tasks.values()))
    with progress("inspect", total) as meter:
        return compare(found.base, tasks, base_table=found.table, progress=meter.advance)


def _read_header(name: str, store: Store | None) -> HeaderReport:
    from deltakit.delta import Delta
    from deltakit.errors import BadFile
    from deltakit.experts import locate
    from deltakit.inspect import read_header
    from deltakit.lora.adapter import Adapter
    from deltakit.opening import open_any
    from deltakit.tensors.checkpoint import Checkpoint

    place = locate(name, store)
    source = open_any(place.path)
    if not isinstance(source, Delta | Checkpoint | Adapter):
        raise BadFile(
            "neither a delta, an adapter nor a model",
            where=str(place.path),
            got=type(source).__name__.lower(),
        )
    return read_header(source, place.label)


def show_headers(headers: Sequence[HeaderReport]) -> None:
    """Print what headers tell, one line a task."""
    rows = [
        [
            h.task,
            h.role + (" (exact)" if h.exact else ""),
            fraction(h.density),
            f"{h.parameters}"
            if h.changed_parameters is None
            else f"{h.changed_parameters}/{h.parameters}",
            count(h.values),
            size(h.nbytes),
            ", ".join(h.dtypes),
        ]
        for h in headers
    ]
    heads = ["task", "role", "density", "parameters", "values", "size", "dtype"]
    table(heads, rows, align="llrrrrl")


def show_report(report: Report) -> None:
    """Print figures by task, pair, layer and kind of module."""
    model = report.model
    say(f"base {report.base}: {model.parameters} parameters, {count(model.entries)} entries")
    say()
    _show_tasks(model)
    if len(report.tasks) > 1:
        say()
        _show_pairs(model)
        say()
        _show_together(model)
    for word, groups in (("layer", report.layers), ("kind", report.kinds)):
        for first in range(0, len(report.tasks), ACROSS):
            say()
            _show_groups(word, groups, range(len(report.tasks))[first : first + ACROSS])
    notes(report.notes)


def _show_tasks(model: Group) -> None:
    rows = [
        [t.task, fraction(t.density), count(t.changed), fraction(t.norm)]
        + [fraction(x) for x in (t.relative_norm, t.rms, t.max)]
        for t in model.tasks
    ]
    table(["task", "density", "changed", "norm", "norm/base", "rms", "max"], rows, align="lr")


def _show_pairs(model: Group) -> None:
    heads = ["pair", "", "cosine", "chance", "jaccard", "overlap", "conflict", "weighted"]
    rows = [
        [p.a, p.b, fraction(p.cosine), "-" if p.null_band is None else f"±{fraction(p.null_band)}"]
        + [fraction(x) for x in (p.jaccard, p.overlap, p.sign_conflict, p.weighted_conflict)]
        for p in model.pairs
    ]
    table(heads, rows, align="llr")
    say("chance: a cosine within it is what random signs give")
    say("conflict: opposite signs, of the entries both change")
    say("weighted: the share of magnitude that adding the two cancels")


def _show_together(model: Group) -> None:
    together = model.together
    say(
        f"together: conflict {fraction(together.sign_conflict)},"
        f" weighted {fraction(together.weighted_conflict)},"
        f" interference {fraction(together.interference)}"
    )
    heads = ["changed by", *(f"{n}" for n in range(len(together.owned)))]
    table(heads, [["entries", *map(fraction, together.owned)]], align="lr")


def _show_groups(word: str, groups: Sequence[Group], tasks: Sequence[int]) -> None:
    names = [groups[0].tasks[i].task for i in tasks]
    rows = [
        [g.name, *(fraction(g.tasks[i].relative_norm) for i in tasks)]
        + ([fraction(g.together.sign_conflict)] if len(g.tasks) > 1 else [])
        for g in groups
    ]
    heads = [word, *names, *(["conflict"] if len(groups[0].tasks) > 1 else [])]
    table(heads, rows, align="lr", title=f"norm/base by {word}")
