"""Where each row of an embedding in the output comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from deltakit.vocabulary.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from deltakit.vocabulary.lent import Lent

NONE = -1


@dataclass(frozen=True, eq=False)
class Rows:
    """For each row of the output the row of the base and of each expert, NONE where it has none.

    >>> rows = Rows.of(Tokenizer.of({"a": 0, "b": 1}), 2, Tokenizer.of({"b": 0}), 2, [])
    >>> rows.base.tolist(), list(rows.runs())
    ([-1, 0], [(0, 1), (1, 2)])

    base (n,) int64, experts (n,) int64 each. `lent` are the rows of models that have NONE of that
    number; a forced one nobody has.
    """

    base: np.ndarray
    experts: Sequence[np.ndarray]
    lent: Mapping[int, Lent] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        output: Tokenizer,
        count: int,
        base: Tokenizer,
        base_rows: int,
        experts: Sequence[tuple[Tokenizer, int]],
        lent: Mapping[int, Lent] | None = None,
    ) -> Rows:
        """Match `count` rows of the output by token with models of so many rows each.

        A row of no token, in output and base alike, is padding: the base's own, and no expert's.
        """
        ours = _rows(output, count, base, base_rows)
        taken = {number for number in output.ids.values() if number < count}
        theirs = set(base.ids.values())
        for number in range(min(count, base_rows)):
            if number not in taken and number not in theirs:
                ours[number] = number
        found = cls(
            ours, tuple(_rows(output, count, other, rows) for other, rows in experts), lent or {}
        )
        forced = [row for row, each in found.lent.items() if each.force]
        for rows in (found.base, *found.experts):
            rows[forced] = NONE
        return found

    @property
    def made(self) -> np.ndarray:
        """The rows that the base lacks, ascending."""
        import numpy as np

        return np.flatnonzero(self.base == NONE)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The first row of each run: rows that lie one after another in all models."""
        import numpy as np

        broken = np.zeros(max(0, len(self.base) - 1), dtype=np.bool_)
        for rows in (self.base, *self.experts):
            broken |= rows[1:] != np.where(rows[:-1] == NONE, NONE, rows[:-1] + 1)
        for row in self.lent:
            broken[max(0, row - 1) : row + 1] = True
        return np.concatenate(([0], np.flatnonzero(broken) + 1, [len(self.base)]))

    def runs(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (first row, row after the last) of each run that meets rows start..stop."""
        import numpy as np

        stop = len(self.base) if stop is None else stop
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        yield from pairwise(self._starts[first : last + 1].tolist())

    def pieces(self, start: int, stop: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (start, stop, row, offset) for flat entries start..stop of rows of `width`.

        `row` is the output's first of a run; the entries begin `offset` entries after it, in the
        output and in every model that has the row.
        """
        if start == stop:
            return
        for first, last in self.runs(start // width, -(-stop // width)):
            low, high = max(start, first * width), min(stop, last * width)
            yield low, high, first, low - first * width

    def places(
        self, start: int, stop: int, width: int, expert: int | None = None
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (start, stop, where they begin) for flat entries of rows that the base has.

        `expert`: where they begin there, for rows that it has too, or is lent.
        """
        found = self.base if expert is None else self.experts[expert]
        before: tuple[int, int, int] | None = None
        for low, high, row, offset in self.pieces(start, stop, width):
            if found[row] == NONE or (self.base[row] == NONE and row not in self.lent):
                continue
            at = int(found[row]) * width + offset
            if before is not None and (low, at) == (before[1], before[2] + before[1] - before[0]):
                before = (before[0], high, before[2])
                continue
            if before is not None:
                yield before
            before = (low, high, at)
        if before is not None:
            yield before

    def borrowed(
        self, start: int, stop: int, width: int, expert: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yield the pieces of rows that the base has and an expert is lent."""
        for low, high, row, offset in self.pieces(start, stop, width) if self.lent else ():
            lacks = self.experts[expert][row] == NONE and self.base[row] != NONE
            if lacks and row in self.lent:
                yield low, high, row, offset


def _rows(output: Tokenizer, count: int, model: Tokenizer, rows: int) -> np.ndarray:
    import numpy as np

    found = np.full(count, NONE, dtype=np.int64)
    for token, number in output.ids.items():
        row = model.ids.get(token, NONE)
        if number < count and row < rows:
            found[number] = row
    return found
