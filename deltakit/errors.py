"""What deltakit raises: one message that states fact, where, expected, got and remedy."""

from __future__ import annotations

from collections.abc import Iterable


class DeltakitError(Exception):
    """Something deltakit refuses, with what to do about it.

    >>> print(DeltakitError("density is outside (0, 1]", got="1.5", remedy="pass a fraction"))
    density is outside (0, 1]
      got:      1.5
      remedy:   pass a fraction

    The inner layer states the fact; an outer layer that knows more adds `where` through `at`.
    Every subclass is also the builtin a caller would guess.
    """

    def __init__(
        self,
        fact: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(fact)
        self.fact = fact
        self.where = where
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def at(self, where: str) -> DeltakitError:
        """Return this error with `where` put in front of the place it names, unless it is there."""
        if not self.where:
            self.where = where
        elif not self.where.startswith(where):
            self.where = f"{where}, {self.where}"
        return self

    def __str__(self) -> str:
        parts = [printable(self.fact)]
        for label in ("where", "expected", "got", "remedy"):
            text = getattr(self, label)
            if text is not None:
                lines = [text] if label == "where" else text.split("\n")
                indented = ("\n" + " " * 12).join(map(printable, lines))
                parts.append(f"  {label + ':':9} {indented}")
        return "\n".join(parts)


class BadValue(DeltakitError, ValueError):
    """A setting, weight or name outside what is allowed."""


class BadFile(DeltakitError, ValueError):
    """A file whose bytes are not what their format says."""


class ShapeMismatch(DeltakitError, ValueError):
    """Two tensors of one name that differ in shape."""


class DtypeMismatch(DeltakitError, TypeError):
    """Two tensors of one name that differ in dtype where they must not."""


class NamesDiffer(DeltakitError, KeyError):
    """Tensors missing from a model, or extra in it."""

    __str__ = DeltakitError.__str__


class WrongBase(DeltakitError, ValueError):
    """An artifact made against another base model."""


class NonFinite(DeltakitError, ArithmeticError):
    """NaN or infinity where a number belongs."""


class UnknownName(DeltakitError, KeyError):
    """A task, strategy, setting or tensor that does not exist."""

    __str__ = DeltakitError.__str__


class NotFound(DeltakitError, FileNotFoundError):
    """A file or folder that does not exist."""

    __str__ = DeltakitError.__str__


class AlreadyThere(DeltakitError, FileExistsError):
    """A task, base or output that exists and is not to be replaced."""

    __str__ = DeltakitError.__str__


class InputChanged(DeltakitError, RuntimeError):
    """An input file that changed while it was read."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None when nothing is close."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def printable(text: str) -> str:
    r"""Return text from a file with its control characters spelled out, so none reaches a terminal.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def some(names: Iterable[str], most: int = 5) -> str:
    """Return the first few of `names` in order, printable, and how many more there are.

    >>> some(["c", "a", "b"], most=2)
    'a, b and 1 more'
    """
    ordered = sorted(names)
    shown = ", ".join(map(printable, ordered[:most]))
    return shown if len(ordered) <= most else f"{shown} and {len(ordered) - most} more"
