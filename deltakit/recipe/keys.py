"""Strict keys: one that a recipe does not have is an error with the nearest that it has."""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from deltakit.errors import BadFile, nearest


def check_keys(value: Any, kind: Any, path: str = "$") -> None:
    """Raise BadFile for a key in plain data that its struct has no field for."""
    if isinstance(value, list):
        for number, entry in enumerate(value):
            for item in _items(kind, list):
                check_keys(entry, item, f"{path}[{number}]")
        return
    if not isinstance(value, dict):
        return
    for item in _items(kind, dict):
        for key, entry in value.items():
            check_keys(entry, item, f"{path}.{key}")
    struct = next((part for part in (kind, *_options(kind)) if _is_struct(part)), None)
    if struct is None:
        return
    hints = get_type_hints(struct)
    for key, entry in value.items():
        if key not in hints:
            close = nearest(key, hints)
            raise BadFile(
                f"unknown key {key!r}",
                where=place(path),
                expected=", ".join(hints),
                remedy=f"did you mean {close!r}?" if close else "take it out",
            )
        check_keys(entry, hints[key], f"{path}.{key}")


def convert(value: Any, kind: Any) -> Any:
    """Return plain data as a struct; BadFile saying where it is of another type than its field."""
    check_keys(value, kind)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        fact, _, path = str(error).partition(" - at ")
        raise BadFile(
            f"not a recipe: {fact[:1].lower()}{fact[1:]}", where=place(path.strip("`"))
        ) from None


def place(path: str) -> str | None:
    """Return a path within a recipe for a reader, who counts from 1.

    >>> place("$.rules[0].mask.name"), place("$.tasks[1]"), place("$")
    ('rule 1, mask.name', 'task 2', None)
    """
    text = re.sub(
        r"\b(rule|task|head|slice)s\[([0-9]+)\]\.?", lambda m: f"{m[1]} {int(m[2]) + 1}, ", path[1:]
    )
    return text.strip("., ") or None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _options(kind: Any) -> tuple[Any, ...]:
    """Return what a value of this kind may be, where it may be several things."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else ()


def _items(kind: Any, of: type) -> list[Any]:
    """Return what the entries of a list or a dict of this kind may be."""
    found = [part for part in (kind, *_options(kind)) if get_origin(part) is of]
    return [get_args(part)[-1] for part in found]
