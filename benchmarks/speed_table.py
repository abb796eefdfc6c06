"""The tables of the speed benchmark, no wider than 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby

from benchmarks.peer import Race
from benchmarks.speed import Cost, Run
from benchmarks.table import WIDTH, size
from deltakit_cli.figures import count


def merges(costs: Sequence[Cost], dry_runs: dict[str, Run]) -> str:
    """Return a line a merge, under a heading for each size and number of models."""
    lines = []
    for (name, models), group in groupby(costs, lambda cost: (cost.size, cost.models)):
        found = list(group)
        lines += [f"{name}: {_models(found[0], models)}", "", _MERGES_HEAD]
        for cost in found:
            low, mid, high = cost.limit
            lines.append(
                f"{cost.name:15}{cost.middle('wall'):8.2f}{cost.middle('merge'):8.2f}"
                f"{cost.middle('cpu'):8.2f}{cost.middle('peak') / 1e6:6.0f}{cost.above / 1e6:6.0f}"
                f"{mid:7.2f}{f'{low:.2f}-{high:.2f}':>12}{cost.ratio:7.1f}"
            )
        dry = dry_runs[name]
        loaded = "torch loaded" if dry.torch else "torch not loaded"
        lines += ["", f"--dry-run of {found[0].name}: whole {dry.wall:.2f} s, {loaded}", ""]
    starts = {cost.floor.torch: cost.floor for cost in costs}
    each = [
        f"{'torch too' if torch else 'deltakit'} {starts[torch].start:.2f} s and"
        f" {starts[torch].peak / 1e6:.0f} MB"
        for torch in sorted(starts)
    ]
    notes = [
        "whole: seconds of the whole process; merge: without the start of interpreter and"
        " libraries; cpu: seconds of processor time of the whole process; peak: anonymous memory in"
        " MB; above: over that of a process that only loads the libraries (here"
        f" {', '.join(each)}); limit: seconds of reading the inputs and writing one output, median"
        " and spread; ratio: merge / limit.",
    ]
    return "\n".join([*lines, *_wrapped(notes)])


_MERGES_HEAD = (
    f"{'merge':15}{'whole':>8}{'merge':>8}{'cpu':>8}{'peak':>6}{'above':>6}"
    f"{'limit':>7}{'spread':>12}{'ratio':>7}"
)


def scaling(costs: Sequence[Cost]) -> str:
    """Return a line a merge, size and number of models: time is to follow the bytes, not memory."""
    lines = [
        f"{'merge':16}{'size':>5}{'models':>8}{'GB in':>8}{'GB out':>8}{'merge s':>9}{'s/GB':>7}"
        f"{'peak MB':>9}{'above MB':>10}"
    ]
    for cost in sorted(costs, key=lambda cost: (cost.name, cost.bytes_read)):
        each = cost.middle("merge") / (cost.bytes_read + cost.bytes_written) * 1e9
        lines.append(
            f"{cost.name:16}{cost.size:>5}{cost.models:8}{cost.bytes_read / 1e9:8.2f}"
            f"{cost.bytes_written / 1e9:8.2f}{cost.middle('merge'):9.2f}{each:7.2f}"
            f"{cost.middle('peak') / 1e6:9.0f}{cost.above / 1e6:10.0f}"
        )
    note = (
        "merge s: without the start of interpreter and libraries; s/GB: over the bytes read and"
        " written; above MB: anonymous memory over that of a process that only loads these."
    )
    return "\n".join([*lines, "", *_wrapped([note])])


def density(costs: Sequence[Cost]) -> str:
    """Return a line for each way that deltas are stored: what they cost is to fall with density."""
    lines = [
        f"{'deltas':16}{'size':>5}{'models':>8}{'GB in':>8}{'merge s':>9}{'cpu s':>8}{'peak MB':>9}"
    ]
    for cost in costs:
        lines.append(
            f"{cost.name:16}{cost.size:>5}{cost.models:8}{cost.bytes_read / 1e9:8.2f}"
            f"{cost.middle('merge'):9.2f}{cost.middle('cpu'):8.2f}{cost.middle('peak') / 1e6:9.0f}"
        )
    note = (
        "GB in: the base and all deltas; merge s: without the start of interpreter and libraries;"
        " cpu s: processor time of the whole process; peak MB: its anonymous memory."
    )
    return "\n".join([*lines, "", *_wrapped([note])])


def races(found: Sequence[Race]) -> str:
    """Return a line a merge that both did."""
    lines = [
        f"{'merge':15} {'mergekit':16}{'size':>6}{'models':>7}{'ours s':>8}{'its s':>8}"
        f"{'x':>6}{'ours':>6}{'its MB':>7}"
    ]
    for race in found:
        ours, theirs = race.ours, race.theirs
        lines.append(
            f"{race.name:15} {race.method:16}{race.size:>6}{race.models:7}"
            f"{race.middle(ours, 'wall'):8.2f}{race.middle(theirs, 'wall'):8.2f}"
            f"{race.speed_up:6.1f}{race.middle(ours, 'peak') / 1e6:6.0f}"
            f"{race.middle(theirs, 'peak') / 1e6:7.0f}"
        )
    note = (
        "Whole process against whole process, ours before and after its; x: how many times as long"
        " mergekit takes as the middle of ours; MB: anonymous memory at its peak. deltakit's time"
        " includes making the output durable, mergekit does not do that."
    )
    return "\n".join([*lines, "", *_wrapped([note])])


def _models(cost: Cost, models: int) -> str:
    nbytes = cost.bytes_written
    return f"base + {models} fine-tunes of {count(nbytes // 2)} parameters, bf16, {size(nbytes)}"


def _wrapped(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in textwrap.wrap(note, WIDTH)]
