"""A number that may run over the depth of a model: a list of its values at even steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deltakit.errors import BadValue

Number = float | list[float]


def at(value: Any, depth: float) -> Any:
    """Return a number, or what a list of numbers is at a depth from 0 to 1; the rest as it is.

    >>> at([0.0, 1.0, 0.0], 0.25), at([0.5, 1.0], 1.0), at(0.3, 0.7), at("tensor", 0.5)
    (0.5, 1.0, 0.3, 'tensor')

    The first value belongs to depth 0, the last to depth 1, those between lie at even steps;
    between two the value runs straight.
    """
    if not isinstance(value, list):
        return value
    place = depth * (len(value) - 1)
    low = int(place)
    high = min(low + 1, len(value) - 1)
    part = place - low
    return (1 - part) * value[low] + part * value[high]


def check_gradient(name: str, value: Any) -> None:
    """Raise BadValue for a list that is no gradient: empty, or of other than finite numbers."""
    if not isinstance(value, list):
        return
    numbers = all(type(entry) in (int, float) and math.isfinite(entry) for entry in value)
    if not value or not numbers:
        raise BadValue(
            f"{name} is a list of other than numbers",
            expected="numbers, the first for the first layer and the last for the last",
            got=f"{value}"[:80],
        )


def check_whole(made: object, given: Mapping[str, Any]) -> None:
    """Raise BadValue for a gradient of a setting that is a whole number, where it is one too.

    made: the settings as they are at some depth; given: as they were written.
    """
    for name, value in given.items():
        if isinstance(value, list) and isinstance(getattr(made, name), int):
            raise BadValue(
                f"{name} is a whole number, which cannot run over depth",
                expected="one number",
                got=f"{value}"[:80],
                remedy="write rules, each of some layers, with a number of its own",
            )


def text(value: Number) -> str:
    """Return a number or a gradient for a reader.

    >>> text(0.5), text([0.1, 0.5, 0.2])
    ('0.5', '0.1..0.5..0.2')
    """
    return "..".join(f"{x:g}" for x in value) if isinstance(value, list) else f"{value:g}"
