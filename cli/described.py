"""What a strategy, mask or weighting says of itself, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltakit.strategies import Settings

KINDS = ("strategy", "mask", "weights")


def rooms() -> dict[str, Any]:
    """Return where each kind is listed and found."""
    from deltakit import strategies

    return {"strategy": strategies, "mask": strategies.masks, "weights": strategies.weights}


def describe_all(kind: str) -> list[dict[str, Any]]:
    """Return what all of a kind say of themselves, by name."""
    return [described(kind, name) for name in rooms()[kind].names()]


def describe(name: str) -> dict[str, Any]:
    """Return what one says of itself, whatever its kind; an unknown one is an error."""
    for kind, room in rooms().items():
        if name in room.names():
            return described(kind, name)
    return described("strategy", name)


def described(kind: str, name: str) -> dict[str, Any]:
    """Return help, formula, paper, needs, settings, an example."""
    import dataclasses
    import inspect
    from typing import get_type_hints

    from deltakit.strategies import range_of

    found = rooms()[kind].find(name)
    hints, full = get_type_hints(found), get_type_hints(found, include_extras=True)
    settings = []
    for f in dataclasses.fields(found):
        interval = range_of(full[f.name])
        settings.append(
            {
                "name": f.name,
                "type": spell(hints[f.name]),
                "range": interval.text if interval else None,
                "default": f.default,
            }
        )
    text = inspect.getdoc(found) or ""
    try:
        looks = found().looks
    except ValueError:  # a mask that has no default for what it cannot know
        looks = "nothing"
    return {
        "name": name,
        "kind": kind,
        "family": getattr(found, "family", kind),
        "summary": " ".join(text.partition("\n\n")[0].split()),
        "formula": getattr(found, "formula", ""),
        "paper": found.paper,
        "ordered": _flag(found, "ordered"),
        "weighted": getattr(found, "weighted", False),
        "needs": needs(found),
        "needs_importance": _flag(found, "needs_importance"),
        "most": getattr(found, "most", None),
        "looks": looks,
        "streams": streams(found),
        "streams_with": getattr(found, "streams_with", ""),
        "unit": found.unit,
        "settings": settings,
        "help": text,
        "example": example(kind, name, found),
    }


def needs(found: type[Settings]) -> str:
    """Return what must be at hand beside the fine-tuned models, in words."""
    if not _flag(found, "needs_importance"):
        return "the base; no data"
    gram = getattr(found, "statistic", "scores") == "gram"
    return f"the base, and {'Gram matrices' if gram else 'an importance map'} of each task"


def streams(found: type[Settings]) -> bool:
    """Tell whether a task can be added later, with all settings or those of `streams_with`."""
    from deltakit.strategies import Streaming

    return bool(
        issubclass(found, Streaming)
        or getattr(found, "streams_with", "")
        or _flag(found, "streams")
    )


def _flag(found: type[Settings], name: str) -> bool:
    """Return a class's flag; one that depends on the settings is off by default."""
    value = getattr(found, name, False)
    return value if isinstance(value, bool) else False


def spell(hint: Any) -> str:
    """Return a setting's type as a user writes its values.

    >>> from typing import Literal
    >>> spell(float), spell(Literal["mass", "count"]), spell(float | Literal["auto"])
    ('number', 'mass | count', 'number | auto')
    """
    from types import UnionType
    from typing import Literal, Union, get_args, get_origin

    words = {float: "number", int: "whole number", str: "text", bool: "true | false"}
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) in (UnionType, Union):
        return " | ".join(map(spell, get_args(hint)))
    if hint is type(None):
        return "none"
    return words.get(hint) or str(getattr(hint, "__name__", hint))


def example(kind: str, name: str, found: type[Settings]) -> str:
    """Return a merge command that uses it, with its first setting spelled out."""
    import dataclasses

    settings = dataclasses.fields(found)
    first = f"{settings[0].name}={settings[0].default}" if settings and settings[0].default else ""
    inline = f"{name}:{first}" if first else name
    given = {
        "strategy": f"--strategy {name}" + (f" --set {first}" if first else ""),
        "mask": f"--strategy ties --mask {inline}",
        "weights": f"--strategy average --weights auto:{inline}",
    }[kind]
    return f"deltakit merge TASK1 TASK2 {given} --out merged"
