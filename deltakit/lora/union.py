"""What several adapters adapt together, checked to be adapters of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltakit.errors import BadValue, NamesDiffer, ShapeMismatch, nearest, some
from deltakit.lora.adapter import Adapter, Part


@dataclass(frozen=True)
class Member:
    """One adapter of a merge: the name its random masks depend on, its weight, its importance."""

    name: str
    adapter: Adapter
    weight: float = 1.0
    importance: Path | None = None  # a map of rank units


def union(members: Sequence[Member]) -> Mapping[str, Mapping[int, Part]]:
    """Return the parts of each module by the adapter's number: module -> {number: part}.

    An adapter that lacks a module adds nothing to it. Raises ShapeMismatch for factors of
    different models, BadValue for a kohya file beside a PEFT folder, and NamesDiffer for adapters
    that have no module in common by reason of their names.
    """
    if len({member.adapter.flat for member in members}) > 1:
        flat = [m.adapter.label for m in members if m.adapter.flat]
        raise BadValue(
            "a kohya file and a PEFT folder do not name modules alike",
            where=some(flat),
            remedy="convert it first: deltakit lora convert FILE --to peft --base PATH --out DIR",
        )
    modules = sorted({module for member in members for module in member.adapter.parts})
    found = {
        module: {
            number: member.adapter.parts[module]
            for number, member in enumerate(members)
            if module in member.adapter.parts
        }
        for module in modules
    }
    for module, parts in found.items():
        _check_alike(module, parts, members)
    _refuse_strangers(members)
    return found


def notes_on_strangers(members: Sequence[Member]) -> list[str]:
    """Return a note on every two adapters that adapt no module in common: of one model, or not."""
    notes = []
    for number, first in enumerate(members):
        for second in members[number + 1 :]:
            ours, theirs = first.adapter.parts, second.adapter.parts
            if ours and theirs and not set(ours) & set(theirs):
                notes.append(
                    f"{first.name} and {second.name} have no module in common, as"
                    f" {min(ours)} and {nearest(min(ours), theirs) or min(theirs)}"
                )
    return notes


def _check_alike(module: str, parts: Mapping[int, Part], members: Sequence[Member]) -> None:
    (first, one), *others = parts.items()
    for number, other in others:
        if (one.kind, one.outputs, one.inputs) != (other.kind, other.outputs, other.inputs):
            raise ShapeMismatch(
                f"the adapters were trained on models of different shapes: {module!r}",
                where=f"{members[first].name} and {members[number].name}",
                expected=f"{one.kind} {one.outputs} x {list(one.inputs)}",
                got=f"{other.kind} {other.outputs} x {list(other.inputs)}",
                remedy="merge adapters of one base; a resized vocabulary needs one size first",
            )


def _refuse_strangers(members: Sequence[Member]) -> None:
    """Refuse adapters whose modules share only the ends of their names, as under a prefix."""
    for first in members:
        for second in members:
            ours, theirs = set(first.adapter.parts), set(second.adapter.parts)
            if not ours or not theirs or ours & theirs:
                continue
            name = min(ours)
            under = [n for n in theirs if n.endswith(f".{name}") or name.endswith(f".{n}")]
            if under:
                close = nearest(name, under)
                raise NamesDiffer(
                    "the adapters name the same modules differently",
                    where=f"{first.name} and {second.name}",
                    expected=name,
                    got=close or under[0],
                    remedy="train or convert them on one class of the model",
                )
