"""What a merge did: counted while it ran, told at the end."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from deltakit.engine.aside import path
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
    heads: dict[str, str] = field(default_factory=dict)  # each task's file of tensors kept aside
    seconds: float = 0.0
    resumed: int = 0  # shards that an interrupted merge had finished
    state_bytes: int = 0  # of the running state kept beside, for a task to be added


class Counts(msgspec.Struct):
    """What was counted of one tensor."""

    merged: float = 0.0  # sum of squares of the merged delta
    experts: list[float] = msgspec.field(default_factory=list)  # and of each task's
    changed: bool = False  # whether any byte differs from the base's


class Tally:
    """Counts of every merged tensor, added from several threads; they go into no output."""

    def __init__(self, experts: int) -> None:
        self._lock = threading.Lock()
        self._experts = experts
        self._counts: dict[str, Counts] = {}

    def add(self, name: str, squares: Sequence[float], merged: float, changed: bool) -> None:
        """Count one block: sums of squares, of each delta and merged, and whether it changed."""
        with self._lock:
            counts = self._counts.setdefault(name, Counts(experts=[0.0] * self._experts))
            counts.merged += merged
            counts.experts = [a + b for a, b in zip(counts.experts, squares, strict=True)]
            counts.changed |= changed

    def of(self, names: Iterable[str]) -> dict[str, Counts]:
        """Return the counts of some tensors, those that were merged."""
        with self._lock:
            return {name: self._counts[name] for name in names if name in self._counts}

    def restore(self, counts: Mapping[str, Counts]) -> None:
        """Take over counts that `of` returned for tensors not counted here."""
        self._counts.update(counts)

    def report(self, plan: Plan, out: Path) -> Report:
        """Return the report; raises BadValue when the result is the base itself."""
        changed = sum(counts.changed for counts in self._counts.values())
        made = plan.vocabulary is not None and plan.vocabulary.makes_rows
        made |= not plan.recipe.merges
        if not changed and not made:
            raise BadValue(
                "nothing was applied: the merged model is the base",
                where=", ".join(expert.name for expert in plan.experts),
                remedy="check that the tasks are fine-tunes of this base, the weights and the"
                " scale: what is smaller than the dtype's rounding vanishes in it",
            )
        every = [self._counts[name] for name in sorted(self._counts)]
        squares = zip(*(counts.experts for counts in every), strict=True)
        norms = [math.sqrt(math.fsum(of_task)) for of_task in squares]
        names = [expert.name for expert in plan.experts] if every else []
        empty = [name for name, norm in zip(names, norms, strict=True) if norm == 0.0]
        notes = [*plan.notes, *(f"{name}: equals the base, adds nothing" for name in empty)]
        return Report(
            out=str(out),
            bytes_out=plan.bytes_out,
            changed=changed,
            copied=len(plan.base.infos) - changed,
            merged_norm=math.sqrt(math.fsum(counts.merged for counts in every)),
            task_norms=dict(zip(names, norms, strict=True)),
            notes=notes,
            heads={task: str(path(task)) for task in plan.heads},
            state_bytes=plan.state_bytes,
        )
