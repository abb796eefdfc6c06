"""Finding a strategy by its file's name, and its settings by its fields' names."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import deltakit.strategies as room
from deltakit.errors import BadValue, UnknownName, nearest
from deltakit.strategies._strategy import Strategy


def names() -> list[str]:
    """Return the names of all strategies, sorted.

    >>> "ties" in names()
    True
    """
    found = (module.name for module in pkgutil.iter_modules(room.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def find(name: str) -> type[Strategy]:
    """Return the strategy's class; an unknown name is an error with the nearest one."""
    known = names()
    if name not in known:
        close = nearest(name, known)
        raise UnknownName(
            f"unknown strategy {name!r}",
            expected=", ".join(known),
            remedy=f"did you mean {close!r}?" if close else "see: deltakit strategies",
        )
    module = importlib.import_module(f"deltakit.strategies.{name}")
    for value in vars(module).values():
        here = getattr(value, "__module__", None) == module.__name__
        if here and isinstance(value, type) and issubclass(value, Strategy):
            return value
    raise TypeError(f"{module.__file__} defines no strategy")


def get(name: str, settings: Mapping[str, Any] | None = None) -> Strategy:
    """Return a strategy with settings given as values or as text (`{"density": "0.3"}`)."""
    strategy = find(name)
    known = sorted(field.name for field in dataclasses.fields(strategy))
    for key in settings or {}:
        if key not in known:
            close = nearest(key, known)
            raise UnknownName(
                f"{name} has no setting {key!r}",
                expected=", ".join(known) or "no settings",
                remedy=f"did you mean {close!r}?" if close else f"see: deltakit strategies {name}",
            )
    try:
        return strategy(**(settings or {}))
    except BadValue as error:
        raise error.at(f"strategy {name}") from None
