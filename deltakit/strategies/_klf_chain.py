"""What KlF must know of all units before it fuses one: the levels of every task's scores.

A cumulative score is a chain of normalised ones, so a handful of numbers a task tells how any unit
is fused, in whatever block it is met.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from deltakit.strategies._klf_contrast import contrasted, contrasts, tops
from deltakit.strategies._klf_levels import Blocks, Level, Units, level_of, of_task

if TYPE_CHECKING:
    import numpy as np


class Meeting(NamedTuple):
    """A task and what came before it: normalised scores of the same units, (units,) each."""

    before: np.ndarray
    now: np.ndarray
    important_before: np.ndarray  # bool
    important_now: np.ndarray  # bool


@dataclass(frozen=True)
class Levels:
    """The levels of each task, and of what was cumulative when it came.

    before[k] is of the cumulative scores that task k meets; the first task meets none. `tops` are
    the largest scores of each task where scores are compared as contrasts, else empty.
    """

    beta: float
    now: Sequence[Level]
    before: Sequence[Level] = ()
    tops: Sequence[float] = ()

    def seen(self, scores: np.ndarray) -> np.ndarray:
        """Return scores as they are compared: (tasks, units), of no later task."""
        each = scores[: len(self.now)]
        return contrasts(each, self.tops) if self.tops else each

    def chain(self, scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (before, now), both normalised, for each task from the second: (units,) each."""
        cumulative = scores[0]
        for k in range(1, len(scores)):
            p, c = self.before[k].norm(cumulative), self.now[k].norm(scores[k])
            yield p, c
            cumulative = self.beta * p + (1.0 - self.beta) * c

    def meetings(self, scores: np.ndarray) -> Iterator[Meeting]:
        """Yield what each task from the second meets: scores (tasks, units) as given."""
        for k, (p, c) in enumerate(self.chain(self.seen(scores)), start=1):
            yield Meeting(p, c, self.before[k].important(p), self.now[k].important(c))


@dataclass(frozen=True)
class Arrivals:
    """Levels that change with every task that comes: those of the first two, of three, ..

    What a task meets is told by the tasks up to it, so that a later one changes none of it.
    """

    each: Sequence[Levels]

    def meetings(self, scores: np.ndarray) -> Iterator[Meeting]:
        """Yield what `Levels.meetings` does, of each number of tasks the last."""
        for levels in self.each:
            *_, last = levels.meetings(scores)
            yield last


def joint_levels(blocks: Blocks, tasks: int, quantile: float | None) -> Levels:
    """Return the levels of each task's own scores."""
    return Levels(0.0, [level_of(of_task(blocks, k), quantile) for k in range(tasks)])


def chained_levels(blocks: Blocks, tasks: int, quantile: float | None, beta: float) -> Levels:
    """Return the levels of each task's scores and of the cumulative ones before it."""
    now = joint_levels(blocks, tasks, quantile).now
    before = [now[0]]
    for k in range(1, tasks):
        so_far = Levels(beta, now, before)

        def cumulative(k: int = k, so_far: Levels = so_far) -> Iterator[Units]:
            for scores, sizes in blocks():
                *_, (p, c) = [(scores[0], scores[0]), *so_far.chain(scores[:k])]
                yield Units(scores[0] if k == 1 else beta * p + (1.0 - beta) * c, sizes)

        before.append(level_of(cumulative, quantile))
    return Levels(beta, now, before)


def found_levels(
    blocks: Blocks, tasks: int, quantile: float | None, beta: float | None, contrast: bool
) -> Levels | Arrivals:
    """Return the levels of a chain that remembers by `beta`; without, those of all tasks at once.

    With `contrast` each task's scores are relative to the mean over all tasks, in a chain over
    those up to it.
    """

    def of(blocks: Blocks, tasks: int) -> Levels:
        if beta is None:
            return joint_levels(blocks, tasks, quantile)
        return chained_levels(blocks, tasks, quantile, beta)

    if not contrast:
        return of(blocks, tasks)
    each = tops(blocks, tasks)

    def among(tasks: int) -> Levels:
        first = each[:tasks]
        return dataclasses.replace(of(contrasted(blocks, first), tasks), tops=first)

    return among(tasks) if beta is None else Arrivals([among(k) for k in range(2, tasks + 1)])
