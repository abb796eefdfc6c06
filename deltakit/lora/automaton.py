"""A regular expression as an automaton: no pattern of a stranger's makes it slow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from deltakit.errors import BadFile

MOST_CHARACTERS = 10_000
MOST_STATES = 2000
MOST_REMEMBERED = 10_000

Test = Callable[[str], bool]

_CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}


class Automaton:
    """What `re.match` finds or does not find in a line, in steps of one a character.

    >>> pattern = Automaton("(.*[.])?(q|v)_proj$")
    >>> pattern.matches("layers.0.q_proj"), pattern.matches("xq_proj")
    (True, False)

    Python's own engine tries again and again, for minutes where a pattern is made for it; this one
    follows all ways at once. Look-around, back references, word boundaries, atomic groups and flags
    are refused with BadFile, as is what repeats to more than 2000 states, and what is no pattern.
    `steps` counts the work done so far; errors show `shown` in place of the pattern.
    """

    def __init__(self, pattern: str, shown: str | None = None) -> None:
        self.steps = 0
        self._shown = (pattern if shown is None else shown)[:80]
        self._tests: list[Test | None] = [None]  # of a state; 0 is where a match ends
        self._next: list[list[int]] = [[]]
        self._ends: set[int] = set()  # states to be passed only where the line ends
        self._begins: set[int] = set()  # and where it begins
        if len(pattern) > MOST_CHARACTERS:
            raise self._refused("so many characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # of what Python 4 may read otherwise
                tree = _parser.parse(pattern)
            if tree.state.flags != re.UNICODE:
                raise self._refused("flags")
            first = self._sequence(tree, 0)
        except (re.error, RecursionError, OverflowError) as error:
            raise BadFile(f"{self._shown!r} is no regular expression: {error}") from None
        self._start = self._closed([first], at_start=True)
        self._moves: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def matches(self, line: str) -> bool:
        """Tell whether a match begins at the line's first character; it holds no line break."""
        now = self._start
        for character in line:
            if 0 in now:
                return True
            self.steps += 1
            key = (now, character)
            if key not in self._moves:
                if len(self._moves) >= MOST_REMEMBERED:
                    self._moves.clear()
                self._moves[key] = self._move(now, character)
            now = self._moves[key]
            if not now:
                return False
        return 0 in self._closed(now, at_start=not line, at_end=True)

    def _move(self, states: frozenset[int], character: str) -> frozenset[int]:
        reached = []
        self.steps += len(states)
        for state in states:
            test = self._tests[state]
            if test is not None and test(character):
                reached += self._next[state]
        return self._closed(reached)

    def _closed(
        self, states: Iterable[int], *, at_start: bool = False, at_end: bool = False
    ) -> frozenset[int]:
        """Return these states and all that are reached from them without a character."""
        found, waiting = set(states), list(states)
        while waiting:
            state = waiting.pop()
            self.steps += 1
            held = (state in self._begins and not at_start) or (state in self._ends and not at_end)
            if self._tests[state] is None and not held:
                new = [s for s in self._next[state] if s not in found]
                found.update(new)
                waiting += new
        return frozenset(found)

    def _state(self, test: Test | None, after: list[int]) -> int:
        if len(self._tests) >= MOST_STATES:
            raise self._refused("so many repetitions")
        self._tests.append(test)
        self._next.append(after)
        return len(self._tests) - 1

    def _refused(self, what: str) -> BadFile:
        return BadFile(
            f"the pattern {self._shown!r} has {what}, which deltakit does not follow",
            expected="letters, ., [..], (..|..), *, +, ?, {m,n}",
            remedy="write it plainer, or name the modules one by one",
        )

    def _sequence(self, tree: Iterable[Any], after: int) -> int:
        for op, value in reversed(list(tree)):
            after = self._one(op, value, after)
        return after

    def _one(self, op: Any, value: Any, after: int) -> int:
        """Return the state at which an item begins whose end is the state `after`."""
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            least, most, tree = value
            return self._repeat(least, most, tree, after)
        if op is ops.BRANCH:
            return self._state(None, [self._sequence(tree, after) for tree in value[1]])
        if op is ops.SUBPATTERN:
            _, added, removed, tree = value
            if added or removed:
                raise self._refused("flags")
            return self._sequence(tree, after)
        if op is ops.AT and value in (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING):
            self._begins.add(state := self._state(None, [after]))
            return state
        if op is ops.AT and value in (ops.AT_END, ops.AT_END_STRING):
            self._ends.add(state := self._state(None, [after]))
            return state
        return self._state(self._test(op, value), [after])

    def _repeat(self, least: int, most: int, tree: Any, after: int) -> int:
        if most is ops.MAXREPEAT:
            loop = self._state(None, [after])
            self._next[loop].append(self._sequence(tree, loop))
            after = loop
        else:
            end = after
            for _ in range(most - least):
                after = self._state(None, [self._sequence(tree, after), end])
        for _ in range(least):
            after = self._sequence(tree, after)
        return after

    def _test(self, op: Any, value: Any) -> Test:
        if op is ops.ANY:
            return lambda character: True
        if op is ops.LITERAL:
            return lambda character: ord(character) == value
        if op is ops.NOT_LITERAL:
            return lambda character: ord(character) != value
        if op is ops.RANGE:
            return lambda character: value[0] <= ord(character) <= value[1]
        if op is ops.CATEGORY:
            category = re.compile(_CATEGORIES[value])
            return lambda character: category.match(character) is not None
        if op is ops.IN:
            negated = value[0][0] is ops.NEGATE
            tests = [self._test(*item) for item in value[negated:]]
            return lambda character: any(test(character) for test in tests) is not negated
        raise self._refused(str(value if op is ops.AT else op).lower().replace("_", " "))
