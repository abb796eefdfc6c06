"""Settings: a frozen dataclass whose fields check themselves, in type and in range."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import msgspec

from deltakit.errors import BadValue, nearest

# What JSON does not call a number, and people do: .5, 5., +5.
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")

Unit = Literal["element", "row", "tensor"]
Looks = Literal["nothing", "tensor", "model"]


@dataclass(frozen=True)
class Range:
    """The interval a setting lies in, written as mathematics does: "(0, 1]" leaves out the 0.

    >>> Range("[0, 1)").holds(0.0), Range("[0, 1)").holds(1.0), Range("(0, inf)").holds(7.0)
    (True, False, True)
    """

    text: str

    def holds(self, value: float) -> bool:
        low, high = map(float, self.text[1:-1].split(","))
        above = value >= low if self.text[0] == "[" else value > low
        return above and (value <= high if self.text[-1] == "]" else value < high)

    def check(self, name: str, value: float) -> None:
        """Raise BadValue for a value outside the interval."""
        if not self.holds(value):
            percent = value > 1 and self.text[1:-1] == "0, 1"
            raise BadValue(
                f"{name} is outside {self.text}",
                got=f"{value:g}",
                remedy="give a fraction, not a percentage" if percent else "choose one inside",
            )


Density = Annotated[float, Range("(0, 1]")]
DropRate = Annotated[float, Range("[0, 1)")]
Share = Annotated[float, Range("[0, 1]")]
Positive = Annotated[float, Range("(0, inf)")]
NotNegative = Annotated[float, Range("[0, inf)")]
Count = Annotated[int, Range("[1, inf)")]


@dataclass(frozen=True)
class Settings:
    """Fields with defaults; a value given as text becomes what its field's type says.

    A field's type names its range (`Density`, `Annotated[float, Range("[0, 2]")]`), which is
    checked when an instance is made and shown by `deltakit strategies NAME`. `check` is for what
    ranges cannot say. `unit` is what a block given to the formula must not cut: "element" takes
    any slice of the flattened parameter, "row" slices at the ends of rows (entries that share the
    first index; a vector is one row), "tensor" needs the whole parameter with its shape.
    """

    unit: ClassVar[Unit] = "element"
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            value = _converted(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                interval = range_of(hints[field.name])
                if interval is not None:
                    interval.check(field.name, value)
                elif not math.isfinite(value):
                    raise BadValue(f"{field.name} is not a finite number", got=f"{value}")
        self.check()

    def check(self) -> None:
        """Raise BadValue for settings whose values the formula has no meaning for."""


def coarsest(units: Iterable[Unit]) -> Unit:
    """Return the unit that none of several pieces has cut.

    >>> coarsest(["element", "tensor", "row"])
    'tensor'
    """
    return max(units, key=get_args(Unit).index)


def farthest(looks: Iterable[Looks]) -> Looks:
    """Return what is read beforehand where several pieces each read something.

    >>> farthest(["nothing", "model", "tensor"])
    'model'
    """
    return max(looks, key=get_args(Looks).index)


def range_of(hint: Any) -> Range | None:
    """Return the interval in a field's type, or None where its values have none."""
    if get_origin(hint) is Annotated:
        return next((extra for extra in hint.__metadata__ if isinstance(extra, Range)), None)
    found = (range_of(part) for part in get_args(hint))
    return next((interval for interval in found if interval is not None), None)


def _converted(name: str, value: Any, hint: Any) -> Any:
    """Return a setting as the type of its field; BadValue with the nearest word if it cannot be."""
    given = value
    if isinstance(value, str) and float in _leaves(hint) and _DECIMAL.fullmatch(value):
        given = float(value)
    try:
        return msgspec.convert(given, hint, strict=False)
    except msgspec.ValidationError:
        words = list(_words(hint))
        number = bool({int, float} & set(_leaves(hint)))
        close = nearest(str(value), words)
        raise BadValue(
            f"{name} cannot be {value!r}",
            expected=" or ".join(["a number"] * number + words),
            remedy=f"did you mean {close!r}?" if close else None,
        ) from None


def _leaves(hint: Any) -> list[Any]:
    """Return the types and words that a type is made of."""
    if get_origin(hint) is Annotated:
        return _leaves(get_args(hint)[0])
    parts = get_args(hint)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [hint]


def _words(hint: Any) -> list[str]:
    return [leaf for leaf in _leaves(hint) if type(leaf) is str]
