"""Patterns over tensor names: globs, and regular expressions that cannot take for ever."""

from __future__ import annotations

import fnmatch
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from deltakit.errors import BadValue

_MOST = 100  # globs that the braces of one may stand for
_LONGEST = 500
_NAME = 200  # characters of a name for which the ways to match are counted
_WAYS = 6_000_000  # of which all may have to be tried: some 50 ns each


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
    """Return a compiled expression; one whose matching could take long is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what may mean something else one day
            compiled = re.compile(regex)
            tree = re._parser.parse(regex)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise BadValue(f"not a regular expression: {error}", got=regex[:80]) from None
    count, choices = _ways(tree)
    if choices * math.comb(_NAME + count, count) > _WAYS:
        raise BadValue(
            "an expression can match in so many ways that trying them takes long",
            expected="at most three open-ended repetitions such as .*, beside few choices",
            got=f"{count} of them, and {choices:,} ways to choose, in {regex[:80]}",
            remedy="write a glob, whose * costs little, or a list of expressions",
        )
    return compiled


def _ways(tree: Any, inside: bool = False) -> tuple[int, int]:
    """Count the repetitions without an end, and the ways that all other choices can go.

    BadValue for a repetition that holds a choice or a repetition itself.
    """
    count, ways = 0, 1
    for kind, value in reversed(tree):
        repeats = str(kind) in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
        if inside and (repeats or str(kind) in ("BRANCH", "GROUPREF", "GROUPREF_EXISTS")):
            raise BadValue(
                "an expression repeats what repeats or chooses itself",
                got="matching it could take for ever",
                remedy="write it without, or as a glob",
            )
        often = repeats and value[1] > 1
        found = [_ways(part, inside or often) for part in _parts(value)]
        if str(kind) in ("ASSERT", "ASSERT_NOT"):  # looked at once for all that follows
            count, ways = max(count, found[0][0]), ways + found[0][1]
            continue
        if str(kind) == "BRANCH":
            each = [way for _, way in found]
            found = [(max(n for n, _ in found), max(each) if _exclusive(value) else sum(each))]
        if repeats:
            without_end = value[1] - value[0] >= _NAME
            found.append((1, 1) if without_end else (0, value[1] - value[0] + 1))
        count += sum(n for n, _ in found)
        ways *= math.prod(way for _, way in found)
    return count, ways


def _exclusive(branch: Any) -> bool:
    """Tell whether the ways of a choice begin with different letters, so that one can go on."""
    firsts = [next(iter(way), ("", 0)) for way in branch[1]]
    letters = {chr(value).lower() for kind, value in firsts if str(kind) == "LITERAL"}
    return len(letters) == len(firsts)


def _parts(value: Any) -> Iterator[Any]:
    """Yield the expressions within a node's value."""
    if type(value).__name__ == "SubPattern":
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
