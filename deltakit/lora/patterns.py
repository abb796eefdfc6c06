"""rank_pattern and alpha_pattern: which of many patterns is the first to fit a module's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

from deltakit.errors import BadFile
from deltakit.lora.automaton import Automaton

MOST_STEPS = 20_000_000  # seconds of work; 10 000 modules and ten patterns are half of it

_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")


Value = TypeVar("Value")


class Patterns(Generic[Value]):
    """Values by pattern; the first that fits counts, and PEFT says what fits: `(.*[.])?(pattern)$`.

    >>> ranks = Patterns({"layers.0.q": 4, "q|v": 2})
    >>> [ranks.get(module, 8) for module in ("m.layers.0.q", "layers.1.q", "xq")]
    [4, 2, 8]

    A config may list every module as a pattern. So patterns of letters and dots are looked up, and
    only others are followed by automata. Raises BadFile for a pattern that is refused, for a module
    whose name holds a line break, and where the work grows beyond all adapters there are.
    """

    def __init__(self, table: Mapping[str, Value]) -> None:
        self._values = list(table.values())
        # Equally long ones with dots, which match any character, at the same places: by text.
        self._plain: dict[tuple[int, tuple[int, ...]], dict[str, int]] = {}
        self._automata: list[tuple[int, Automaton]] = []
        self._known: dict[str, int | None] = {}
        self._steps = 0
        for number, pattern in enumerate(table):
            if _PLAIN.fullmatch(pattern):
                dots = tuple(at for at, character in enumerate(pattern) if character == ".")
                alike = self._plain.setdefault((len(pattern), dots), {})
                alike.setdefault(pattern, number)
            else:
                self._automata.append((number, Automaton(rf"(.*\.)?({pattern})$", pattern)))
                self._spend(self._automata[-1][1].steps)

    def get(self, module: str, default: Value) -> Value:
        """Return the value of the first pattern that fits a module's name, or the default."""
        if module not in self._known:
            if "\n" in module:
                raise BadFile("a module's name holds a line break", got=f"{module[:80]!r}")
            self._known[module] = self._find(module)
        number = self._known[module]
        return default if number is None else self._values[number]

    def _find(self, module: str) -> int | None:
        found = None
        for (length, dots), alike in self._plain.items():
            self._spend(1 + len(dots))
            start = len(module) - length
            if start < 0 or (start and module[start - 1] != "."):
                continue
            tail = module[start:]
            if any(tail[at] != "." for at in dots):
                tail = "".join("." if at in dots else c for at, c in enumerate(tail))
            number = alike.get(tail)
            if number is not None and (found is None or number < found):
                found = number
        for number, automaton in self._automata:
            if found is not None and found < number:
                break
            before = automaton.steps
            if automaton.matches(module):
                found = number
            self._spend(automaton.steps - before)
        return found

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise BadFile(
                "the patterns of ranks take longer to match than those of any true adapter",
                got=f"{len(self._automata)} patterns that are not plain names",
                remedy="name the modules one by one",
            )


def spelled(values: Mapping[str, int], default: int) -> dict[str, int]:
    """Return the patterns that give each module its value, where it is not the default.

    >>> spelled({"proj": 2, "x.proj": 3, "y.proj": 3}, 3)
    {'^proj': 2}

    A name is its own pattern, anchored where it would fit the end of another module's name.
    """
    table = {name: name for name in sorted(values) if values[name] != default}
    while True:
        first = Patterns(table)
        hits = [(module, first.get(module, module)) for module in values]
        wrong = {hit for module, hit in hits if values[hit] != values[module]}
        if not wrong:
            return {pattern: values[name] for pattern, name in table.items()}
        anchored = {f"^{re.escape(n)}" if n in wrong else p: n for p, n in table.items()}
        table = dict(sorted(anchored.items()))  # as they stand in the file
