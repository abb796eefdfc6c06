"""The sums that every figure is made of: they add over blocks, parameters, layers and models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Sums:
    """What was counted over some entries of k deltas; sums are float64, counts int64.

    A ratio is taken from sums at the very end: averaging the ratios of tensors would count a bias
    of 64 entries as much as an embedding of millions.
    """

    entries: int
    base_squares: float
    total: np.ndarray  # (k,) sum d
    absolute: np.ndarray  # (k,) sum |d|
    largest: np.ndarray  # (k,) max |d|
    dot: np.ndarray  # (k, k) sum a b; its diagonal is sum d^2
    dot_squares: np.ndarray  # (k, k) sum a^2 b^2
    both: np.ndarray  # (k, k) entries where neither is zero; its diagonal counts the non-zero ones
    conflicts: np.ndarray  # (k, k) entries where the signs are opposite
    pair_absolute: np.ndarray  # (k, k) sum |a + b|
    owners: np.ndarray  # (k + 1,) entries that 0, 1, ... k tasks change
    mixed: int  # entries that tasks change in opposite directions
    sum_absolute: float  # sum |d_1 + ... + d_k|

    @classmethod
    def zero(cls, tasks: int, entries: int = 0) -> Sums:
        """Return the sums over entries that no task changes."""
        import numpy as np

        pairs = (tasks, tasks)
        owners = np.zeros(tasks + 1, dtype=np.int64)
        owners[0] = entries
        return cls(
            entries=entries,
            base_squares=0.0,
            total=np.zeros(tasks),
            absolute=np.zeros(tasks),
            largest=np.zeros(tasks),
            dot=np.zeros(pairs),
            dot_squares=np.zeros(pairs),
            both=np.zeros(pairs, dtype=np.int64),
            conflicts=np.zeros(pairs, dtype=np.int64),
            pair_absolute=np.zeros(pairs),
            owners=owners,
            mixed=0,
            sum_absolute=0.0,
        )

    def __add__(self, other: Sums) -> Sums:
        import numpy as np

        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        values["largest"] = np.maximum(self.largest, other.largest)
        return Sums(**values)


def add_all(parts: Iterable[Sums], tasks: int) -> Sums:
    """Return the sums over all parts, added in the order given."""
    whole = Sums.zero(tasks)
    for part in parts:
        whole = whole + part
    return whole
