"""One printed table of scores, at 80 columns, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

WIDTH = 80
# A row: its name and its scores by task, or a heading alone.
Row = tuple[str, dict[str, float]]


def render(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Return rows of scores with their mean, no wider than 80 columns; a row of no scores heads.

    >>> print(render([("base", {"trec": 46.8, "rt": 62.3})], ["trec", "rt"]))
                                                                  trec     rt   mean
    base                                                          46.8   62.3   54.5
    """
    names = [*tasks, "mean"]
    room = WIDTH - 7 * len(names)
    lines = [" " * room + "".join(f"{name:>7}" for name in names)]
    for label, scores in rows:
        if not scores:
            lines += ["", label]
            continue
        found = [scores[task] for task in tasks]
        lines.append(f"{label:<{room}}" + "".join(f"{x:7.1f}" for x in [*found, fmean(found)]))
    return "\n".join(lines)


def size(count: int) -> str:
    """Return a number of bytes for a reader.

    >>> size(45_400_000), size(1_500)
    ('45.4 MB', '1.5 kB')
    """
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
