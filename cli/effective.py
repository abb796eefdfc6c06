"""The effective settings of each tensor: as data, and grouped for a reader."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltakit_cli.output import bold, columns, printable, say

if TYPE_CHECKING:
    from deltakit.recipe import Effective, Recipe
    from deltakit.strategies import Settings
    from deltakit.tensors.header import TensorInfo


@dataclass
class Row:
    """One tensor: what becomes of it, and by which rule (0 for what the recipe says of all)."""

    name: str
    layer: int | None
    what: str  # merged, excluded, head, copied
    rule: int
    # What is applied, in that order: weights, mask, strategy.., each with its settings.
    effective: dict[str, dict[str, Any]] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return the row as --json prints it."""
        own = {key: value.get("", value) for key, value in self.effective.items()}
        rule = self.rule or None
        return {"name": self.name, "layer": self.layer, "what": self.what, "rule": rule, **own}


def rows_of(recipe: Recipe, infos: Mapping[str, TensorInfo], only: str) -> list[Row]:
    """Return one row a tensor, in the order of layers."""
    from deltakit.delta_source import is_merged
    from deltakit.engine.shards import natural
    from deltakit.recipe import Rules
    from deltakit.recipe.pattern import matcher
    from deltakit.strategies import layer

    rules, wanted = Rules(recipe, infos), matcher(only)
    tasks = [task.name for task in recipe.tasks]
    rows = []
    for name in sorted(filter(wanted, infos), key=natural):
        if rules.is_head(name):
            rows.append(Row(name, layer(name), "head", 0))
        elif not rules.merges(name):
            rows.append(Row(name, layer(name), "excluded", rules.number(name)))
        elif not is_merged(infos[name]):
            rows.append(Row(name, layer(name), "copied", 0))
        else:
            number, made = rules.number(name), rules.effective(name)
            called = recipe.rules[number - 1].strategy if number else recipe.strategy
            told = _effective(f"{called}", made, tasks, _pieces(recipe, number))
            rows.append(Row(name, layer(name), "merged", number, told))
    return rows


def _pieces(recipe: Recipe, number: int) -> dict[str, str]:
    """Return the names of the mask and the weighting that a rule or the recipe has."""
    own = recipe.rules[number - 1] if number else recipe.own
    pieces = (("mask", own.mask), ("weighting", own.weighting))
    return {kind: piece.name for kind, piece in pieces if piece}


def _effective(
    called: str, made: Effective, tasks: Sequence[str], pieces: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return all that holds of one tensor, in the order in which it is applied."""
    method = made.method
    found: dict[str, dict[str, Any]] = {}
    if method.weighting is None and method.strategy.weighted:
        found["weights"] = dict(zip(tasks, made.weights, strict=True))
    around: tuple[tuple[str, str, Settings | None], ...] = (
        ("weighting", pieces.get("weighting", ""), method.weighting),
        ("mask", pieces.get("mask", ""), method.mask),
        ("strategy", called, method.strategy),
    )
    for kind, name, settings in around:
        if settings is not None:
            found[kind] = {"name": name, **dataclasses.asdict(settings)}
    if method.lines:
        found["lines"] = {"": list(method.lines)}
    return {**found, "scale": {"": made.scale}}


def show_rows(recipe: Recipe, rows: Sequence[Row]) -> None:
    """Print rows for a reader: the tensors of a rule together, equal layers in one line."""
    from deltakit.recipe.pattern import text

    groups: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.what != "merged", row.rule == 0, row.rule)):
        groups.setdefault((row.what, row.rule), []).append(row)
    for (what, number), group in groups.items():
        say()
        rule = recipe.rules[number - 1] if number else None
        if rule is not None:
            layers = "" if rule.layers is None else f", layers {rule.layers}"
            told = f"rule {number}: {printable(text(rule.match))}{layers}"
        else:
            told = {
                "merged": "the rest" if recipe.rules or recipe.heads else "all",
                "head": "heads, each task's own beside the result",
                "copied": "integers",
            }[what]
        kept = "" if what == "merged" else ", as in the base"
        say(bold(f"{told}: {tensors(len(group))}{kept}"))
        for key, value in _told(group):
            _say_wrapped(f"  {key:9} {value}", 12)
        for number_of, name in enumerate(_folded(group)):
            _say_wrapped(f"  {'' if number_of else 'tensors':9} {name}", 12)


def _told(group: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield what holds of a group, what differs between layers as one value a layer."""
    differing: list[tuple[str, str]] = []
    for line, settings in group[0].effective.items():
        parts = []
        for key, value in settings.items():
            named = "" if key == "name" else key
            if all(row.effective[line][key] == value for row in group):
                parts.append(f"{named} {_text(value)}".strip())
                continue
            layers = {row.layer: row.effective[line][key] for row in group}
            each = (f"{'-' if n is None else n}: {_text(v)}" for n, v in layers.items())
            differing.append((named or line, ", ".join(each)))
            parts += [f"{named} by layer"] if named else []
        if parts:
            yield line, ", ".join(map(printable, parts))
    yield from differing


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "{:g} + {:g} depth".format(*value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _folded(group: Sequence[Row]) -> list[str]:
    """Return the names of a group, those that differ by their layer in one.

    >>> rows = [Row(f"h.{n}.w", n, "merged", 0) for n in (0, 1, 2, 5)]
    >>> _folded([*rows, Row("out.w", None, "merged", 0)])
    ['h.{0-2,5}.w', 'out.w']
    """
    found: dict[str, list[int]] = {}
    for row in group:
        parts = row.name.split(".")
        if row.layer is None:
            found.setdefault(row.name, [])
            continue
        at = next(i for i, part in enumerate(parts) if part.isdigit())
        shape = ".".join([*parts[:at], "\0", *parts[at + 1 :]])
        found.setdefault(shape, []).append(row.layer)
    return [printable(name.replace("\0", _ranges(layers))) for name, layers in found.items()]


def _ranges(layers: Sequence[int]) -> str:
    """Return numbers in short.

    >>> _ranges([0, 1, 2, 5]), _ranges([3])
    ('{0-2,5}', '3')
    """
    runs: list[list[int]] = []
    for number in sorted(layers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)
    return told if len(layers) == 1 else f"{{{told}}}"


def _say_wrapped(line: str, indent: int) -> None:
    say(
        "\n".join(
            textwrap.wrap(line, columns(), subsequent_indent=" " * indent, break_on_hyphens=False)
        )
    )


def tensors(count: int) -> str:
    """Return a number of tensors in words."""
    return f"{count} tensor{'s' * (count != 1)}"
