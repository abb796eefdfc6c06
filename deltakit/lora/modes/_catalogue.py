"""Finding a mode by its file's name, or a strategy to apply to the deltas themselves."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import deltakit.lora.modes as room
from deltakit import strategies
from deltakit.errors import BadValue, UnknownName, nearest
from deltakit.lora.modes._mode import Mode
from deltakit.recipe import Piece, Rule

_ELEMENTWISE = "elementwise"  # is named by its strategy


def _own() -> list[str]:
    found = (module.name for module in pkgutil.iter_modules(room.__path__))
    return [name for name in found if not name.startswith("_") and name != _ELEMENTWISE]


def names() -> list[str]:
    """Return the names of all modes, sorted.

    >>> {"cat", "svd", "ties", "knots"} <= set(names())
    True
    """
    return sorted({*_own(), *strategies.names()})


def find(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    mask: Piece | None = None,
    weighting: Piece | None = None,
    lines: tuple[float, float] | None = None,
) -> Mode:
    """Return a mode with its settings, given as values or as text.

    name: a mode, a strategy, or FILE.py:Class. mask, weighting, lines: as in a recipe; only a
    strategy that is applied to the deltas takes them, others are BadValue.
    """
    given = dict(settings or {})
    if name in _own():
        if mask or weighting or lines:
            raise BadValue(
                f"the mode {name} merges factors, whose deltas are never spread out to be"
                f" {'masked' if mask else 'weighed' if weighting else 'scaled by depth'}",
                remedy="apply a strategy to the deltas: --mode task_arithmetic, ties, ..",
            )
        return _made(_class(name), name, given)
    if name in strategies.names() or strategies.is_own_file(name):
        rule = Rule(strategy=name, settings=given, mask=mask, weighting=weighting, lines=lines)
        return _class(_ELEMENTWISE)(rule=rule.spelled())  # type: ignore[call-arg]
    close = nearest(name, names())
    raise UnknownName(
        f"unknown mode {name!r}",
        expected=", ".join(names()),
        remedy=f"did you mean {close!r}?" if close else None,
    )


def _class(name: str) -> type[Mode]:
    module = importlib.import_module(f"deltakit.lora.modes.{name}")
    for value in vars(module).values():
        here = getattr(value, "__module__", None) == module.__name__
        if here and isinstance(value, type) and issubclass(value, Mode):
            return value
    raise TypeError(f"{module.__file__} defines no mode")


def _made(mode: type[Mode], name: str, given: dict[str, Any]) -> Mode:
    """Return the mode; where it works in another basis, what is not its own is its strategy's."""
    own = {field.name for field in dataclasses.fields(mode)}  # type: ignore[arg-type]
    if "strategy" in own:
        inner = given.pop("strategy", None)
        if inner is None or isinstance(inner, str):
            inner = strategies.get(inner or "ties", given)
        return mode(strategy=inner)  # type: ignore[call-arg]
    for key in given:
        if key not in own:
            close = nearest(key, own)
            raise UnknownName(
                f"the mode {name} has no setting {key!r}",
                expected=", ".join(sorted(own)) or "no settings",
                remedy=f"did you mean {close!r}?" if close else None,
            )
    try:
        return mode(**given)
    except BadValue as error:
        raise error.at(f"mode {name}") from None
