"""Comparing tasks with their base and with each other, in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deltakit.delta_source import DeltaSource, merged_names
from deltakit.errors import BadValue, DeltakitError
from deltakit.inspect import naming
from deltakit.inspect.measure import BLOCK, Measurer, Progress
from deltakit.inspect.report import Group, Report, group
from deltakit.inspect.sums import Sums, add_all
from deltakit.provenance import ModelTable
from deltakit.tensors.source import TensorSource


def compare(
    base: TensorSource,
    tasks: Mapping[str, DeltaSource],
    *,
    base_table: ModelTable | None = None,
    threads: int = 2,
    block: int = BLOCK,
    progress: Progress | None = None,
) -> Report:
    """Return density, norm, overlap, cosine, sign conflict and interference of some tasks.

    >>> import torch
    >>> from deltakit.delta_source import ModelDelta
    >>> from deltakit.tensors.source import MemoryTensors
    >>> base = MemoryTensors({"w": torch.zeros(4)})
    >>> a = MemoryTensors({"w": torch.tensor([1.0, 2.0, 0.0, 0.0])})
    >>> b = MemoryTensors({"w": torch.tensor([0.0, -2.0, 1.0, 0.0])})
    >>> report = compare(base, {"a": ModelDelta(a), "b": ModelDelta(b)})
    >>> report.model.pairs[0].cosine, report.model.pairs[0].sign_conflict
    (-0.8, 1.0)

    All data is read once, in blocks of `block` entries, with memory bounded by blocks and
    threads; figures do not depend on the number of threads. `base_table` is what is known of the
    base; without it the base is hashed where a stored delta was made against a fingerprint.
    `progress` is called with a parameter's name and the bytes read since the last call. Raises
    NamesDiffer, ShapeMismatch, DtypeMismatch, WrongBase, and NonFinite for NaN or infinity.
    """
    if not tasks:
        raise BadValue("nothing to inspect: no task was given")
    notes = _check(base, tasks, base_table)
    sources, names = list(tasks.values()), merged_names(base.infos)
    sums = _measure_all(base, sources, names, threads, block, progress)
    base.check_unchanged()
    for source in sources:
        source.check_unchanged()
    labels = list(tasks)
    return Report(
        base.label,
        labels,
        _combine("model", names, sums, labels),
        _by_layer(names, sums, labels),
        _by_kind(names, sums, labels),
        [group(name, 1, sums[name], labels) for name in names],
        notes,
    )


def bytes_to_read(base: TensorSource, sources: Sequence[DeltaSource]) -> int:
    """Return the bytes that `compare` will report as progress; raises what it would of a base."""
    for source in sources:
        source.check_base(base)
    return sum(
        base.infos[name].nbytes * (1 + sum(source.changes(name) for source in sources))
        for name in merged_names(base.infos)
    )


def _check(
    base: TensorSource, tasks: Mapping[str, DeltaSource], table: ModelTable | None
) -> list[str]:
    notes: list[str] = []
    for task, source in tasks.items():
        try:
            notes += source.check_base(base)
        except DeltakitError as error:
            raise error.at(f"task {task!r}") from None
        made_against = source.made_against
        if made_against is not None:
            table = table or ModelTable(base.infos, base.digests())
            made_against.check_same(table, f"the delta of task {task!r}", base.label)
    return notes


def _measure_all(
    base: TensorSource,
    sources: list[DeltaSource],
    names: list[str],
    threads: int,
    block: int,
    progress: Progress | None,
) -> dict[str, Sums]:
    import threading

    # Here, because reading a header needs no engine and is to start at once.
    from deltakit.threads import one_torch_thread, run_all

    found: dict[str, Sums] = {}
    mine = threading.local()

    def measure(name: str) -> None:
        if not hasattr(mine, "measurer"):
            mine.measurer = Measurer(base, sources, progress, block)
        found[name] = mine.measurer.measure(name)

    # The largest first, so that no thread is left alone with an embedding at the end. Each
    # parameter is added up by one thread, so the sums have the same bits for any number of them.
    order = sorted(names, key=lambda name: -base.infos[name].numel)
    with one_torch_thread():
        run_all(measure, iter(order), min(threads, max(1, len(names))))
    return found


def _combine(name: str, members: list[str], sums: Mapping[str, Sums], tasks: list[str]) -> Group:
    total = add_all((sums[member] for member in members), len(tasks))
    return group(name, len(members), total, tasks)


def _by_layer(names: list[str], sums: Mapping[str, Sums], tasks: list[str]) -> list[Group]:
    """Return one group a layer in order, then "-" for what is in none.

    Layers of several stacks (encoder and decoder, text and image) bear the stack's name.
    """
    members: dict[tuple[str, int], list[str]] = {}
    outside = []
    for name in names:
        place = naming.layer(name)
        if place is None:
            outside.append(name)
        else:
            members.setdefault(place, []).append(name)
    several = len({stack for stack, _ in members}) > 1
    groups = [
        _combine(f"{stack} {number}" if several else f"{number}", found, sums, tasks)
        for (stack, number), found in sorted(members.items())
    ]
    return groups + ([_combine("-", outside, sums, tasks)] if outside else [])


def _by_kind(names: list[str], sums: Mapping[str, Sums], tasks: list[str]) -> list[Group]:
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(naming.kind(name), []).append(name)
    return [_combine(k, members[k], sums, tasks) for k in naming.KINDS if k in members]
