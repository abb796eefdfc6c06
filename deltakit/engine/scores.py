"""The importance of one parameter, from the maps of all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit.importance import ImportanceMap

if TYPE_CHECKING:
    from torch import Tensor


def scores_of(maps: Sequence[ImportanceMap], name: str) -> tuple[Tensor, ...]:
    """Return each task's importance of a parameter; 1 for all where no map scores it."""
    if not maps:
        return ()
    import torch

    if not any(name in found for found in maps):
        return tuple(torch.ones(()) for _ in maps)
    return tuple(found[name] for found in maps)
