"""Importance relative to the mean over the tasks: what a unit is to one more than to the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from deltakit.strategies._klf_levels import Blocks, Units, level_of, of_task

if TYPE_CHECKING:
    import numpy as np

# Scores are float32: their ratios are told apart to a millionth, and not by how they were rounded.
_STEP = 2.0**-20


def contrasts(scores: np.ndarray, tops: Sequence[float]) -> np.ndarray:
    """Return importance relative to the mean over the tasks: (tasks, units), 1 where all agree.

    >>> import numpy as np
    >>> contrasts(np.array([[1.0, 2.0, 0.0], [30.0, 20.0, 0.0]]), [2.0, 30.0]).round(3)
    array([[0.667, 1.2  , 1.   ],
           [1.333, 0.8  , 1.   ]])

    Each map is first divided by its largest score, so that none outweighs the others; a map of
    zeros is one of ones. A unit that is nothing to all is 1 to each. Rounded to 2^-20.
    """
    import numpy as np

    largest = np.array(tops)[:, None]
    each = np.divide(scores, largest, out=np.ones_like(scores), where=largest > 0.0)
    mean = each.mean(axis=0)
    ratio = np.divide(each, mean, out=np.ones_like(each), where=mean > 0.0)
    return np.round(ratio / _STEP) * _STEP


def contrasted(blocks: Blocks, tops: Sequence[float]) -> Blocks:
    """Return the contrasts of all units, of as many tasks as there are largest scores."""

    def found() -> Iterator[Units]:
        return (Units(contrasts(s[: len(tops)], tops), sizes) for s, sizes in blocks())

    return found


def tops(blocks: Blocks, tasks: int) -> list[float]:
    """Return each task's largest score."""
    levels = [level_of(of_task(blocks, k), None) for k in range(tasks)]
    return [level.low + level.span for level in levels]
