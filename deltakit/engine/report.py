"""What a merge did: counted while it ran, told at the end."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deltakit.engine.plan import Plan
from deltakit.errors import BadValue


@dataclass
class Report:
    """What was merged into `out`, and how much of each task is in it."""

    out: str
    bytes_out: int
    changed: int  # tensors that differ from the base
    copied: int  # tensors that are the base's
    merged_norm: float  # Euclidean norm of the merged delta, scale included
    task_norms: dict[str, float]  # of each task's delta, before the strategy
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Tally:
    """Sums of squares over blocks, added from several threads; they go into no output."""

    def __init__(self, experts: int) -> None:
        self._lock = threading.Lock()
        self._merged = 0.0
        self._experts = [0.0] * experts
        self._changed: set[str] = set()

    def add(self, name: str, squares: Sequence[float], merged: float, changed: bool) -> None:
        """Count one block: sums of squares, of each delta and merged, and whether it changed."""
        with self._lock:
            self._merged += merged
            self._experts = [a + b for a, b in zip(self._experts, squares, strict=True)]
            if changed:
                self._changed.add(name)

    def report(self, plan: Plan, out: Path) -> Report:
        """Return the report; raises BadValue when the result is the base itself."""
        if not self._changed:
            raise BadValue(
                "nothing was applied: the merged model is the base",
                where=", ".join(expert.name for expert in plan.experts),
                remedy="check that the tasks are fine-tunes of this base, the weights and the"
                " scale: what is smaller than the dtype's rounding vanishes in it",
            )
        norms = [math.sqrt(square) for square in self._experts]
        names = [expert.name for expert in plan.experts]
        empty = [name for name, norm in zip(names, norms, strict=True) if norm == 0.0]
        notes = [*plan.notes, *(f"{name}: equals the base, adds nothing" for name in empty)]
        return Report(
            out=str(out),
            bytes_out=plan.bytes_out,
            changed=len(self._changed),
            copied=len(plan.base.infos) - len(self._changed),
            merged_norm=math.sqrt(self._merged),
            task_norms=dict(zip(names, norms, strict=True)),
            notes=notes,
        )
