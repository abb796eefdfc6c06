"""Task: one expert of a merge, as its recipe names it."""

from __future__ import annotations

import msgspec


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One expert of a merge: its name (which its random masks depend on), file, and weight."""

    name: str
    path: str
    weight: float = 1.0
    importance: str | None = None
