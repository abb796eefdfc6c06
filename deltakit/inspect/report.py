"""The report: figures as data, taken from sums, for a terminal, a page or another program."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import msgspec

from deltakit.inspect.sums import Sums


class TaskFigures(msgspec.Struct, frozen=True):
    """One task's delta over a group of parameters.

    density: fraction of entries other than zero. norm: Euclidean; relative_norm: divided by the
    base's over the same parameters, None where that is 0. rms and mean (signed): over all entries.
    max: the largest magnitude.
    """

    task: str
    changed: int
    density: float
    norm: float
    relative_norm: float | None
    rms: float
    mean: float
    max: float


class PairFigures(msgspec.Struct, frozen=True):
    """Two tasks over a group of parameters; None where a figure has no meaning.

    cosine: None, not 0, where a delta is zero. null_band: a cosine within plus or minus this is
    what the same magnitudes with random signs give (two standard deviations), 2/sqrt(d) for the
    effective dimension d = |a|^2 |b|^2 / sum a^2 b^2. jaccard: entries both change / entries
    either changes. overlap: entries both change / those of the smaller support. sign_conflict:
    fraction of the entries both change whose signs are opposite; weighted_conflict: the share of
    magnitude that a sum cancels, 1 - sum|a + b| / sum(|a| + |b|). interference:
    |a + b|^2 / (|a|^2 + |b|^2) - 1, which is 0 for orthogonal deltas and 1 for identical ones.
    """

    a: str
    b: str
    cosine: float | None
    null_band: float | None
    jaccard: float | None
    overlap: float | None
    sign_conflict: float | None
    weighted_conflict: float | None
    interference: float | None


class TogetherFigures(msgspec.Struct, frozen=True):
    """All T tasks over a group of parameters.

    collisions: entries that 0, 1, ... T tasks change; owned: the same as fractions.
    sign_conflict: of the entries that two or more change, the fraction with opposite signs.
    weighted_conflict: 1 - sum|sum d| / sum sum|d|.
    interference: |sum d|^2 / sum|d|^2 - 1; 0 orthogonal, T - 1 identical, below 0 cancelling.
    """

    collisions: list[int]
    owned: list[float]
    sign_conflict: float | None
    weighted_conflict: float | None
    interference: float | None


class Group(msgspec.Struct, frozen=True):
    """The figures over some parameters: one of them, a layer, a kind of module, the model."""

    name: str
    parameters: int
    entries: int
    tasks: list[TaskFigures]
    pairs: list[PairFigures]
    together: TogetherFigures


class Report(msgspec.Struct, frozen=True):
    """What `compare` found, for the whole model and its parts."""

    base: str
    tasks: list[str]
    model: Group
    layers: list[Group]
    kinds: list[Group]
    parameters: list[Group]
    notes: list[str]


def group(name: str, parameters: int, sums: Sums, tasks: Sequence[str]) -> Group:
    """Return the figures that some sums give."""
    order = range(len(tasks))
    return Group(
        name,
        parameters,
        sums.entries,
        [_task(sums, i, tasks[i]) for i in order],
        [_pair(sums, i, j, tasks) for i in order for j in order if i < j],
        _together(sums),
    )


def _task(sums: Sums, i: int, name: str) -> TaskFigures:
    square, changed = float(sums.dot[i, i]), int(sums.both[i, i])
    entries = max(1, sums.entries)
    return TaskFigures(
        name,
        changed,
        changed / entries,
        sqrt(square),
        sqrt(square / sums.base_squares) if sums.base_squares else None,
        sqrt(square / entries),
        float(sums.total[i]) / entries,
        float(sums.largest[i]),
    )


def _pair(sums: Sums, i: int, j: int, tasks: Sequence[str]) -> PairFigures:
    a, b, dot = float(sums.dot[i, i]), float(sums.dot[j, j]), float(sums.dot[i, j])
    sizes, both = (int(sums.both[i, i]), int(sums.both[j, j])), int(sums.both[i, j])
    norms = sqrt(a * b)
    absolute = float(sums.absolute[i] + sums.absolute[j])
    return PairFigures(
        tasks[i],
        tasks[j],
        # Rounding may carry the cosine of two equal deltas past 1.
        min(1.0, max(-1.0, dot / norms)) if norms else None,
        2.0 * sqrt(float(sums.dot_squares[i, j])) / norms if norms else None,
        _ratio(both, sum(sizes) - both),
        _ratio(both, min(sizes)),
        _ratio(int(sums.conflicts[i, j]), both),
        _lost(float(sums.pair_absolute[i, j]), absolute),
        2.0 * dot / (a + b) if a + b else None,
    )


def _together(sums: Sums) -> TogetherFigures:
    squares = float(sums.dot.trace())
    return TogetherFigures(
        sums.owners.tolist(),
        (sums.owners / max(1, sums.entries)).tolist(),
        _ratio(sums.mixed, int(sums.owners[2:].sum())),
        _lost(sums.sum_absolute, float(sums.absolute.sum())),
        float(sums.dot.sum()) / squares - 1.0 if squares else None,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _lost(left: float, before: float) -> float | None:
    """Return the share of `before` that is gone; rounding may leave a hair more than there was."""
    return max(0.0, 1.0 - left / before) if before else None
