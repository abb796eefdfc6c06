"""An importance map as it is printed: how much was measured, and what matters most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deltakit_cli.figures import fraction
from deltakit_cli.output import table

if TYPE_CHECKING:
    from deltakit.importance import ImportanceMap

TOP = 5  # parameters shown


def map_data(found: ImportanceMap, kind: str) -> dict[str, Any]:
    """Return what was measured, as data."""
    return {"kind": kind, "scores": len(found), "importance_top": top(found)}


def top(found: ImportanceMap) -> list[tuple[str, float]]:
    """Return the parameters whose scores add up to most."""
    sums = {name: float(found[name].sum()) for name in found}
    return sorted(sums.items(), key=lambda item: -item[1])[:TOP]


def show_map(found: ImportanceMap) -> None:
    """Print the same for a reader."""
    rows = [[name, fraction(score)] for name, score in top(found)]
    table(["most important", "score"], rows, align="lr")
