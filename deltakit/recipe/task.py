"""Task: one expert of a merge, as its recipe names it."""

from __future__ import annotations

import msgspec

from deltakit.recipe.gradient import Number


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One expert of a merge: its name (which its random masks depend on), file, and weight.

    Without a path it is the task of that name in the store.
    """

    name: str
    path: str = ""
    weight: Number = 1.0
    importance: str | None = None
