"""What continual learning is judged by: overall performance, backward and forward transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from deltakit.errors import BadValue

Scores = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Transfer:
    """OP, BWT and both definitions of FWT; None where a single task or no scores leave it open."""

    op: float
    bwt: float | None
    fwt_zero_shot: float | None
    fwt_vs_single: float | None


def transfer(scores: Scores, single: Sequence[float] | None = None) -> Transfer:
    """Return the metrics of a run over K tasks.

    >>> found = transfer([[80, 10, 20], [70, 60, 30], [65, 55, 50]], single=[78, 58, 52])
    >>> round(found.op, 6), found.bwt, found.fwt_zero_shot, round(found.fwt_vs_single, 6)
    (56.666667, -10.0, 20.0, 0.666667)

    `scores[j][i]` is the score on task i after learning task j, K rows of K numbers in one unit.
    `single[i]` is that of a model trained on task i alone. OP = mean_i a[K][i];
    BWT = mean_{i<K} (a[K][i] - a[i][i]); FWT zero_shot = mean_{i>1} a[i-1][i] and
    FWT vs_single = mean_i (a[i][i] - single[i]): the literature has both. Raises BadValue for a
    table that is not square. Formulas as in KlF (arXiv:2408.05200).
    """
    count = len(scores)
    if not count or any(len(row) != count for row in scores):
        raise BadValue(
            "the scores are not a square table",
            expected="one row after each task, with the score on every task",
            got=f"{count} rows of {sorted({len(row) for row in scores})} scores",
        )
    if single is not None and len(single) != count:
        raise BadValue("a single-task score goes with each task", got=f"{len(single)}, not {count}")
    own = [scores[i][i] for i in range(count)]
    last = scores[-1]
    return Transfer(
        op=fmean(last),
        bwt=fmean(last[i] - own[i] for i in range(count - 1)) if count > 1 else None,
        fwt_zero_shot=fmean(scores[i - 1][i] for i in range(1, count)) if count > 1 else None,
        fwt_vs_single=None
        if single is None
        else fmean(a - b for a, b in zip(own, single, strict=True)),
    )
