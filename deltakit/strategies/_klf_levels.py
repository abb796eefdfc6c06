"""What KlF must know of all units before it fuses one: where each task's scores begin and end.

Normalised scores are raw ones less `low`, over `span`, and a cumulative score is a chain of such
steps. So a handful of numbers a task tells how any unit is fused, and maps of single entries are
never held a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.trim import find_cut

if TYPE_CHECKING:
    import numpy as np

# All units, in blocks: (tasks, units of the block) float64.
Blocks = Callable[[], Iterable["np.ndarray"]]


@dataclass(frozen=True)
class Level:
    """How one task's scores are normalised, and above what they are important.

    >>> import numpy as np
    >>> Level(2.0, 8.0, 0.2).norm(np.array([2.0, 10.0, 4.0]))
    array([0.  , 1.  , 0.25])
    """

    low: float
    span: float
    threshold: float = math.inf

    def norm(self, scores: np.ndarray) -> np.ndarray:
        """Return scores in [0, 1]; those of a constant map are all zeros."""
        return (scores - self.low) / self.span if self.span > 0.0 else scores * 0.0

    def important(self, normalised: np.ndarray) -> np.ndarray:
        """Tell which normalised scores are strictly above the threshold."""
        return normalised > self.threshold


def level_of(values: Callable[[], Iterator[np.ndarray]], quantile: float | None) -> Level:
    """Return the level of scores that come in blocks; without a quantile nothing is important.

    The quantile is of the normalised scores, between two of them by linear interpolation.
    """
    low, high, count = math.inf, -math.inf, 0
    for block in values():
        if len(block):
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            count += len(block)
    level = Level(low, high - low)
    if quantile is None or not count:
        return level
    below = min(math.floor((count - 1) * quantile), count - 1)
    between = (count - 1) * quantile - below
    lower = _ranked(level, values, count - below)
    upper = _ranked(level, values, count - below - 1) if between > 0.0 else lower
    return Level(low, high - low, lower + (upper - lower) * between)


def _ranked(level: Level, values: Callable[[], Iterator[np.ndarray]], rank: int) -> float:
    """Return the normalised score that is the `rank`-th largest."""
    import torch

    return find_cut(
        lambda: (torch.from_numpy(level.norm(block)) for block in values()), rank
    ).threshold


@dataclass(frozen=True)
class Levels:
    """The levels of each task, and of what was cumulative when it came.

    before[k] is of the cumulative scores that task k meets; the first task meets none.
    """

    beta: float
    now: Sequence[Level]
    before: Sequence[Level] = ()

    def chain(self, scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (before, now), both normalised, for each task from the second: (units,) each."""
        cumulative = scores[0]
        for k in range(1, len(scores)):
            p, c = self.before[k].norm(cumulative), self.now[k].norm(scores[k])
            yield p, c
            cumulative = self.beta * p + (1.0 - self.beta) * c


def joint_levels(blocks: Blocks, tasks: int, quantile: float | None) -> Levels:
    """Return the levels of each task's own scores."""
    return Levels(0.0, [level_of(_of_task(blocks, k), quantile) for k in range(tasks)])


def chained_levels(blocks: Blocks, tasks: int, quantile: float | None, beta: float) -> Levels:
    """Return the levels of each task's scores and of the cumulative ones before it."""
    now = joint_levels(blocks, tasks, quantile).now
    before = [now[0]]
    for k in range(1, tasks):
        so_far = Levels(beta, now, before)

        def cumulative(k: int = k, so_far: Levels = so_far) -> Iterator[np.ndarray]:
            for scores in blocks():
                *_, (p, c) = [(scores[0], scores[0]), *so_far.chain(scores[:k])]
                yield scores[0] if k == 1 else beta * p + (1.0 - beta) * c

        before.append(level_of(cumulative, quantile))
    return Levels(beta, now, before)


def _of_task(blocks: Blocks, task: int) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (scores[task] for scores in blocks())
