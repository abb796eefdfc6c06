"""What a merge of adapters is refused for, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from deltakit.errors import BadValue, some
from deltakit.lora.cut import Size
from deltakit.lora.kept import Kept
from deltakit.lora.union import Member


def check_names(members: Sequence[Member]) -> None:
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadValue(
            f"two adapters are called {twice[0]!r}",
            remedy=f"give each a name of its own: {twice[0]}-1=PATH {twice[0]}-2=PATH",
        )


def check_factors_only(used: Sequence[Member], kept: Kept) -> None:
    """Refuse weights found from deltas, and a scale by depth, beside what has no factors."""
    biases = [p.module for m in used for p in m.adapter.parts.values() if p.bias is not None]
    others = [*kept.whole, *kept.rows, *biases]
    if others:
        raise BadValue(
            "only factors get weights found from deltas, or a scale by depth",
            got=f"adapters that keep {some(others)} too",
            remedy="give weights as numbers, or merge into the base:"
            " deltakit merge A B --base PATH",
        )


def check_dora(used: Sequence[Member], mode: str, size: Size, scale: float) -> None:
    """Refuse DoRA, whose delta is not low-rank, unless one adapter alone stays as it is."""
    dora = [m.name for m in used if any(p.magnitude for p in m.adapter.parts.values())]
    alone = len(used) == 1 and used[0].weight * scale == 1.0 and mode in ("cat", "svd")
    if dora and not (alone and size == Size()):
        raise BadValue(
            "a DoRA adapter is not a low-rank delta: each output is also rescaled",
            where=some(dora),
            remedy="merge into the base, where it is exact: deltakit merge A B --base PATH",
        )
