"""Strategies from elsewhere: a class in a user's own file, or one that a package installs."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from deltakit.errors import BadValue, NotFound, UnknownName, nearest


def is_own_file(name: str) -> bool:
    """Tell whether a name is FILE.py:Class.

    >>> is_own_file("./mine.py:Mine"), is_own_file("ties")
    (True, False)
    """
    return ".py:" in name


def file_of(name: str) -> Path:
    """Return the file in a name FILE.py:Class; raises NotFound where there is none."""
    path = Path(name.rpartition(":")[0])
    if not path.is_file():
        raise NotFound("no such file", where=str(path), expected="FILE.py:Class")
    return path


def class_in_file(name: str, kind: type[Any]) -> type[Any]:
    """Return the class that FILE.py:Class names; this runs the file.

    Raises NotFound, UnknownName for a class it does not define, BadValue for one of another kind
    or a file that fails.
    """
    path, wanted = file_of(name), name.rpartition(":")[2]
    module = _module(path)
    found = getattr(module, wanted, None)
    if found is None:
        defined = [n for n, value in vars(module).items() if isinstance(value, type)]
        close = nearest(wanted, defined)
        raise UnknownName(
            f"the file defines no {wanted!r}",
            where=str(path),
            remedy=f"did you mean {close!r}?" if close else None,
        )
    return _checked(found, name, kind)


def installed(group: str) -> dict[str, EntryPoint]:
    """Return what installed packages offer under an entry point group, by name."""
    return {point.name: point for point in entry_points(group=group)}


def loaded(point: EntryPoint, kind: type[Any]) -> type[Any]:
    """Return the class of an entry point, or raise BadValue for anything else."""
    return _checked(point.load(), f"{point.name} = {point.value}", kind)


def _checked(found: Any, name: str, kind: type[Any]) -> type[Any]:
    if not isinstance(found, type) or not issubclass(found, kind):
        raise BadValue(
            f"this is no {kind.__name__}",
            where=name,
            expected=f"a frozen dataclass that extends deltakit.strategies.{kind.__name__}",
        )
    return found


def _module(path: Path) -> ModuleType:
    name = f"deltakit_own.{path.resolve().as_posix()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the dataclass looks its own types up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadValue(
            f"the file cannot be run: {type(error).__name__}: {error}", where=str(path)
        ) from error
    return module
