"""One printed table of scores, at 80 columns, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

WIDTH = 80
# A row: its name and its scores by task, or a heading alone.
Row = tuple[str, dict[str, float]]


def render(rows: Sequence[Row], *groups: Sequence[str]) -> str:
    """Return rows of scores with the mean of each group of tasks, no wider than 80 columns.

    A row of no scores heads; a score or mean that a row does not have is a dash.

    >>> print(render([("base", {"trec": 46.8, "rt": 62.3})], ["trec", "rt"]))
                                                                  trec     rt   mean
    base                                                          46.8   62.3   54.5
    """
    names = [name for tasks in groups for name in (*tasks, "mean")]
    room = WIDTH - max(7, max(map(len, names)) + 1) * len(names)
    width = (WIDTH - room) // len(names)
    lines = [" " * room + "".join(f"{name:>{width}}" for name in names)]
    for label, scores in rows:
        if not scores:
            lines += ["", label]
            continue
        cells: list[float | None] = []
        for tasks in groups:
            found = [scores.get(task) for task in tasks]
            have = [score for score in found if score is not None]
            cells += [*found, fmean(have) if len(have) == len(found) else None]
        shown = (f"{'-' if x is None else f'{x:.1f}':>{width}}" for x in cells)
        lines.append(f"{label:<{room}}" + "".join(shown))
    return "\n".join(lines)


def size(count: int) -> str:
    """Return a number of bytes for a reader.

    >>> size(45_400_000), size(1_500)
    ('45.4 MB', '1.5 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
