"""deltakit strategies: what one can merge with, and the settings of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltakit_cli.options import Json
from deltakit_cli.output import emit, fields, say, table

if TYPE_CHECKING:
    from deltakit.strategies import Strategy

PANEL = "Look"


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One strategy: its settings and help.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the ways to merge; with a name, tell all about one.

    deltakit strategies ties
    """
    from deltakit import strategies

    if name is not None:
        described = describe(name)
        emit(described, lambda: show(described), as_json)
        return
    every = [describe(known) for known in strategies.names()]
    emit(every, lambda: show_all(every), as_json)


def describe(name: str) -> dict[str, Any]:
    """Return what a strategy says of itself: help, paper, flags, settings, an example."""
    import dataclasses
    import inspect
    from typing import get_type_hints

    from deltakit import strategies

    strategy = strategies.find(name)
    hints = get_type_hints(strategy)
    settings = [
        {"name": f.name, "type": spell(hints[f.name]), "default": f.default}
        for f in dataclasses.fields(strategy)
    ]
    text = inspect.getdoc(strategy) or ""
    return {
        "name": name,
        "summary": " ".join(text.partition("\n\n")[0].split()),
        "paper": strategy.paper,
        "ordered": strategy.ordered,
        "weighted": strategy.weighted,
        "needs_importance": strategy.needs_importance,
        "looks": strategy().looks,
        "settings": settings,
        "help": text,
        "example": example(name, strategy),
    }


def spell(hint: Any) -> str:
    """Return a setting's type as a user writes its values.

    >>> from typing import Literal
    >>> spell(float), spell(Literal["mass", "count"]), spell(float | Literal["auto"])
    ('number', 'mass | count', 'number | auto')
    """
    from types import UnionType
    from typing import Literal, Union, get_args, get_origin

    words = {float: "number", int: "whole number", str: "text", bool: "true | false"}
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) in (UnionType, Union):
        return " | ".join(map(spell, get_args(hint)))
    if hint is type(None):
        return "none"
    return words.get(hint) or str(getattr(hint, "__name__", hint))


def example(name: str, strategy: type[Strategy]) -> str:
    """Return a merge command that uses the strategy, with its first setting spelled out."""
    import dataclasses

    settings = dataclasses.fields(strategy)
    setting = f" --set {settings[0].name}={settings[0].default}" if settings else ""
    return f"deltakit merge TASK1 TASK2 --strategy {name}{setting} --out merged"


def show_all(every: list[dict[str, Any]]) -> None:
    """Print one line a strategy, and what its letters mean."""
    rows = [[d["name"], flags(d), d["summary"], d["paper"].rpartition(", ")[2]] for d in every]
    table(["strategy", "", "what it does", "paper"], rows, align="llw")
    say()
    say("o: the order of the tasks matters; i: needs an importance map of each task;")
    say("t: reads each tensor beforehand; m: reads the whole model beforehand")
    say("settings and help of one: deltakit strategies NAME")


def flags(described: dict[str, Any]) -> str:
    """Return one letter for each thing to know before choosing the strategy."""
    letters = {"tensor": "t", "model": "m"}
    return (
        ("o" if described["ordered"] else "")
        + ("i" if described["needs_importance"] else "")
        + letters.get(described["looks"], "")
    )


def show(described: dict[str, Any]) -> None:
    """Print one strategy in full."""
    say(f"{described['name']}: {described['help']}")
    say()
    looks = {"nothing": "nothing", "tensor": "each tensor", "model": "the whole model"}
    fields(
        [
            ("paper", described["paper"]),
            ("order of tasks", "matters" if described["ordered"] else "does not matter"),
            ("weights", "one a task" if described["weighted"] else "not used"),
            ("importance maps", "needed" if described["needs_importance"] else "not used"),
            ("reads beforehand", looks[described["looks"]]),
        ]
    )
    say()
    if described["settings"]:
        rows = [[s["name"], s["type"], str(s["default"])] for s in described["settings"]]
        table(["setting", "values", "default"], rows)
    else:
        say("no settings")
    say()
    say(described["example"])
