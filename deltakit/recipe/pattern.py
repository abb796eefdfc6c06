"""Patterns over tensor names: globs, and regular expressions that cannot take for ever."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from deltakit.errors import BadValue

_MOST = 100  # globs that the braces of one may stand for
_LONGEST = 500
_REPEATS = 8


class Regex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r"""A regular expression that is to match a whole name.

    >>> matcher([Regex(r"layers\.[0-3]\..*")])("layers.2.up.weight")
    True
    """

    regex: str


Pattern = str | Regex
Match = str | Regex | list[str | Regex]


def matcher(match: Match) -> Callable[[str], bool]:
    """Return what tells whether a name matches a pattern, or one of several.

    >>> up = matcher("*.{up,gate}_proj.weight")
    >>> up("layers.3.mlp.up_proj.weight"), up("layers.3.mlp.down_proj.weight")
    (True, False)

    In a glob `*` is any text, dots too, `?` one character, `[ab]` one of some, `{x,y}` either.
    """
    each = [_compiled(pattern) for pattern in patterns(match)]
    return lambda name: any(pattern.fullmatch(name) for pattern in each)


def patterns(match: Match) -> Sequence[Pattern]:
    """Return the patterns of a match, which may be one or several."""
    return match if isinstance(match, list) else [match]


def text(match: Match) -> str:
    """Return a match for a reader.

    >>> text(["*.bias", Regex("ln_[12].*")])
    '*.bias or /ln_[12].*/'
    """
    each = (f"/{p.regex}/" if isinstance(p, Regex) else p for p in patterns(match))
    return " or ".join(each)


@lru_cache(maxsize=1024)
def _compiled(pattern: Pattern) -> re.Pattern[str]:
    given = pattern.regex if isinstance(pattern, Regex) else pattern
    if not given or len(given) > _LONGEST:
        raise BadValue(
            "a pattern is empty or very long",
            expected=f"1 to {_LONGEST} characters",
            got=given[:80],
        )
    if isinstance(pattern, Regex):
        return _safe(given)
    globs = list(_expanded(given))
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs))


def _expanded(glob: str) -> Iterator[str]:
    """Yield the globs that one with braces stands for."""
    left, made = [glob], 0
    while left:
        glob = left.pop()
        braces = re.search(r"\{([^{}]*)\}", glob)
        if braces is None:
            if "{" in glob or "}" in glob:
                raise BadValue("a glob has a brace alone", got=glob, remedy="write {x,y}")
            yield glob
            continue
        parts = braces[1].split(",")
        made += len(parts)
        if made > _MOST:
            raise BadValue("the braces of a glob stand for too much", expected=f"{_MOST} at most")
        left += [glob[: braces.start()] + part + glob[braces.end() :] for part in parts]


def _safe(regex: str) -> re.Pattern[str]:
    """Return a compiled expression; one whose matching could take exponential time is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what may mean something else one day
            compiled = re.compile(regex)
            tree = re._parser.parse(regex)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise BadValue(f"not a regular expression: {error}", got=regex[:80]) from None
    if _repeats(tree) > _REPEATS:
        raise BadValue(f"more than {_REPEATS} repetitions in an expression", got=regex[:80])
    return compiled


def _repeats(tree: Any, inside: bool = False) -> int:
    """Count the repetitions; BadValue for one that holds a choice or a repetition itself."""
    count = 0
    for kind, value in tree:
        repeats = str(kind) in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
        if inside and (repeats or str(kind) in ("BRANCH", "GROUPREF", "GROUPREF_EXISTS")):
            raise BadValue(
                "an expression repeats what repeats or chooses itself",
                got="matching it could take for ever",
                remedy="write it without, or as a glob",
            )
        often = repeats and value[1] > 1
        count += often
        count += sum(_repeats(part, inside or often) for part in _parts(value))
    return count


def _parts(value: Any) -> Iterator[Any]:
    """Yield the expressions within a node's value."""
    if type(value).__name__ == "SubPattern":
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
