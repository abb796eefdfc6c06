"""Importance maps of rank units, one an adapter, for a mode that goes by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltakit.errors import BadValue
from deltakit.importance import ImportanceMap
from deltakit.lora.layout import PREFIX
from deltakit.lora.modes import Mode
from deltakit.lora.union import Member


def with_maps(
    members: Sequence[Member], importance: Sequence[str | Path], mode: Mode, name: str
) -> list[Member]:
    """Return the members with these maps in place of their own."""
    if not mode.needs_importance:
        raise BadValue(f"{name} uses no importance maps", remedy="leave them out")
    if len(importance) != len(members):
        raise BadValue(
            "an importance map goes with each adapter",
            expected=f"{len(members)} maps, in the order of the adapters",
            got=f"{len(importance)}",
        )
    return [
        dataclasses.replace(member, importance=Path(path))
        for member, path in zip(members, importance, strict=True)
    ]


def rank_scores(used: Sequence[Member]) -> list[dict[str, Any]]:
    found = []
    for member in used:
        if member.importance is None:
            raise BadValue(
                "the mode needs an importance map of rank units for each adapter",
                where=member.name,
                remedy='capture them in training: KlfImportance.attach(model, units="rank"),'
                " and name each: --importance FILE, once an adapter",
            )
        scores = ImportanceMap.open(member.importance)
        if scores.units != "rank":
            raise BadValue(
                "not scores of ranks",
                where=str(member.importance),
                got=f"units {scores.units}",
            )
        found.append({name.removeprefix(PREFIX): values for name, values in scores.items()})
    return found
