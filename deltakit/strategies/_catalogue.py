"""Finding a strategy, mask or weighting by its file's name, and its settings by its fields'."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar

from deltakit.errors import BadValue, UnknownName, nearest
from deltakit.strategies._plugins import class_in_file, installed, is_own_file, loaded
from deltakit.strategies._settings import Settings

Kind = TypeVar("Kind", bound=Settings)


@dataclass(frozen=True)
class Catalogue(Generic[Kind]):
    """The files of a folder, each of which defines one class of a kind.

    noun: what one of them is called in errors. room: the package that holds the files. group: the
    entry points under which other packages add to them. FILE.py:Class names one in any file.
    """

    noun: str
    room: ModuleType
    kind: type[Kind]
    group: str

    def names(self) -> list[str]:
        """Return the names of all of them, sorted, those of installed packages included."""
        return sorted({*self._files(), *installed(self.group)})

    def _files(self) -> list[str]:
        found = (module for module in pkgutil.iter_modules(self.room.__path__) if not module.ispkg)
        return [module.name for module in found if not module.name.startswith("_")]

    def find(self, name: str) -> type[Kind]:
        """Return the class; an unknown name is an error with the nearest one."""
        if is_own_file(name):
            return class_in_file(name, self.kind)
        known = self.names()
        if name not in known:
            close = nearest(name, known)
            raise UnknownName(
                f"unknown {self.noun} {name!r}",
                expected=", ".join(known),
                remedy=f"did you mean {close!r}?" if close else "see: deltakit strategies",
            )
        if name not in self._files():
            return loaded(installed(self.group)[name], self.kind)
        module = importlib.import_module(f"{self.room.__name__}.{name}")
        return defined_in(module, self.kind)

    def get(self, name: str, settings: Mapping[str, Any] | None = None) -> Kind:
        """Return one with settings given as values or as text (`{"density": "0.3"}`)."""
        return made(self.noun, name, self.find(name), settings)


def defined_in(module: ModuleType, kind: type[Kind]) -> type[Kind]:
    """Return the class of a kind that a module defines, rather than imports."""
    for value in vars(module).values():
        here = getattr(value, "__module__", None) == module.__name__
        if here and isinstance(value, type) and issubclass(value, kind):
            return value
    raise TypeError(f"{module.__file__} defines no {kind.__name__}")


def made(
    noun: str, name: str, found: type[Kind], settings: Mapping[str, Any] | None = None
) -> Kind:
    """Return an instance, or raise UnknownName or BadValue saying which setting is wrong."""
    known = sorted(field.name for field in dataclasses.fields(found))
    for key in settings or {}:
        if key not in known:
            close = nearest(key, known)
            where = f" {name}" if noun == "strategy" else ""
            raise UnknownName(
                f"{name} has no setting {key!r}",
                expected=", ".join(known) or "no settings",
                remedy=f"did you mean {close!r}?" if close else f"see: deltakit strategies{where}",
            )
    try:
        return found(**(settings or {}))
    except BadValue as error:
        raise error.at(f"{noun} {name}") from None
