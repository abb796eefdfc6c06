"""Where one task's scores begin and end, and above what they are important.

Normalised scores are raw ones less `low`, over `span`: three numbers of all units tell how any
one is fused, and maps of single entries are never held a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from deltakit.magnitudes import from_top
from deltakit.trim import find_cut

if TYPE_CHECKING:
    import numpy as np


class Units(NamedTuple):
    """Some units: scores float64, (tasks, units) or one task's (units,)."""

    scores: np.ndarray
    sizes: np.ndarray | None = None  # (units,) entries in each; None where each counts as one


# All units, in blocks; called anew for each pass.
Blocks: TypeAlias = Callable[[], Iterable[Units]]

_DIGIT = 16


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


def level_of(units: Blocks, quantile: float | None) -> Level:
    """Return the level of one task's scores; without a quantile nothing is important.

    >>> import numpy as np
    >>> level_of(lambda: [Units(np.array([0.0, 1.0, 3.0, 4.0]))], 0.5)
    Level(low=0.0, span=4.0, threshold=0.5)
    >>> level_of(lambda: [Units(np.array([0.0, 1.0, 3.0, 4.0]), np.array([1, 1, 1, 9]))], 0.5)
    Level(low=0.0, span=4.0, threshold=1.0)

    The quantile is of the normalised scores, between two of them by linear interpolation; a unit
    with a size counts as often as it has entries, as in numpy.quantile(numpy.repeat(..)).
    """
    low, high, count, sized = math.inf, -math.inf, 0, False
    for scores, sizes in units():
        if len(scores):
            low, high = min(low, float(scores.min())), max(high, float(scores.max()))
            count += len(scores) if sizes is None else int(sizes.sum())
            sized |= sizes is not None
    level = Level(low, high - low)
    if quantile is None or not count:
        return level
    ranked = _ranked_by_size if sized else _ranked
    below = min(math.floor((count - 1) * quantile), count - 1)
    between = (count - 1) * quantile - below
    lower = ranked(level, units, count - below)
    upper = ranked(level, units, count - below - 1) if between > 0.0 else lower
    return Level(low, high - low, lower + (upper - lower) * between)


def of_task(blocks: Blocks, task: int) -> Blocks:
    """Return one task's scores of all units."""

    def found() -> Iterator[Units]:
        return (Units(scores[task], sizes) for scores, sizes in blocks())

    return found


def _ranked(level: Level, units: Blocks, rank: int) -> float:
    """Return the normalised score that is the `rank`-th largest."""
    import torch

    return find_cut(
        lambda: (torch.from_numpy(level.norm(scores)) for scores, _ in units()), rank
    ).threshold


def _ranked_by_size(level: Level, units: Blocks, rank: int) -> float:
    """Return what `_ranked` does where a unit counts as often as it has entries.

    The bit patterns of scores, which are not negative, order as the scores do: found digit by
    digit from the first, so that units are counted and not held.
    """
    import numpy as np

    prefix = 0
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT)
        for scores, sizes in units():
            bits = level.norm(scores).view(np.int64) >> shift
            here = bits >> _DIGIT == prefix
            digits = bits[here] & ((1 << _DIGIT) - 1)
            each = None if sizes is None else sizes[here]
            counts += np.bincount(digits, each, minlength=1 << _DIGIT)
        digit, above = from_top(counts, rank)
        prefix, rank = prefix << _DIGIT | digit, rank - above
    return float(np.int64(prefix).view(np.float64))
