"""The effective settings of each tensor, grouped for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from deltakit_cli.effective import Row
from deltakit_cli.figures import things
from deltakit_cli.lists import settings_text
from deltakit_cli.output import printable, say, say_wrapped

if TYPE_CHECKING:
    from deltakit.recipe import Recipe
    from deltakit.stacking import Stack


def show_slices(recipe: Recipe, stack: Stack) -> None:
    """Print which layers of the output each slice makes."""
    for (first, last), part in zip(stack.ranges(), recipe.slices, strict=True):
        say_wrapped(f"  {f'{first}-{last}':9} {printable(part.text)}", 12)


def show_rows(recipe: Recipe, rows: Sequence[Row]) -> None:
    """Print rows for a reader: the tensors of a rule together, equal layers in one line."""
    from deltakit.recipe.layers import text as range_text
    from deltakit.recipe.pattern import text

    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.what != "merged", row.rule == 0, row.rule)):
        model = row.home.taken if row.home else None
        groups.setdefault((row.what, model or "", row.rule), []).append(row)
    for (what, model, number), group in groups.items():
        say()
        rule = recipe.rules[number - 1] if number else None
        if rule is not None:
            layers = "" if rule.layers is None else f", layers {printable(range_text(rule.layers))}"
            told = f"rule {number}: {printable(text(rule.match))}{layers}"
        else:
            told = {
                "merged": "the rest" if recipe.rules or recipe.heads else "all",
                "taken": "taken",
                "head": "heads, each task's own beside the result",
                "copied": "integers",
            }[what]
        kept = "" if what == "merged" else f", as in {model or 'the base'}"
        say(f"{told}: {things(len(group), 'tensor')}{kept}", strong=True)
        for key, value in _told(group):
            say_wrapped(f"  {key:9} {value}", 12)
        for number_of, name in enumerate(_folded(group)):
            say_wrapped(f"  {'' if number_of else 'tensors':9} {name}", 12)


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
    if isinstance(value, dict):  # settings of single tasks
        return "; ".join(f"{task} {settings_text(own)}" for task, own in value.items())
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
