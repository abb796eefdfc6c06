"""From what a user names (adapters of a store, folders, files) to the members of a LoRA merge."""

from __future__ import annotations

from collections.abc import Sequence

from deltakit.errors import BadValue
from deltakit.experts import locate
from deltakit.lora import open_adapter
from deltakit.lora.union import Member
from deltakit.store import Store


def open_members(
    names: Sequence[str], weights: Sequence[float] = (), store: Store | None = None
) -> list[Member]:
    """Open adapters, each with its weight, 1 unless told.

    >>> open_members(["./lora-a", "b=./lora-b"], [1.0, 0.5])             # doctest: +SKIP

    A name is a task of the store, or the path of a PEFT folder or a kohya file, read as `merge`
    reads names; `label=PATH` calls an adapter otherwise than its folder or file. Raises
    UnknownName, NotFound, BadFile for what is no adapter.
    """
    if not names:
        raise BadValue("no adapter is named")
    if weights and len(weights) != len(names):
        raise BadValue(
            "a weight goes with each adapter",
            expected=f"{len(names)} weights",
            got=f"{len(weights)}",
        )
    places = [locate(name, store) for name in names]
    return [
        Member(place.label, open_adapter(place.path), weight, place.importance)
        for place, weight in zip(places, weights or [1.0] * len(names), strict=True)
    ]
