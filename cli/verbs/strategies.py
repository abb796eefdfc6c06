"""deltakit strategies: what one can merge with, and the settings of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltakit_cli.options import Json
from deltakit_cli.output import emit, fields, say, table

if TYPE_CHECKING:
    from deltakit.strategies import Settings

PANEL = "Look"
KINDS = ("strategy", "mask", "weights")
FAMILIES = {
    "linear": "weighted sums",
    "election": "elections: experts compete entry by entry",
    "sphere": "means on the sphere",
    "importance": "by importance",
    "matrix": "by singular vectors, matrix by matrix",
    "mask": "masks: --mask NAME before any of these",
    "weights": "weights: --weights auto:NAME for any that takes weights",
}


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One strategy, mask or weighting; or FILE.py:Class."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the ways to merge; with a name, tell all about one.

    deltakit strategies ties
    """
    if name is not None:
        described = describe(name)
        emit(described, lambda: show(described), as_json)
        return
    every = [described for kind in KINDS for described in describe_all(kind)]
    emit(every, lambda: show_all(every), as_json)


def rooms() -> dict[str, Any]:
    """Return where each kind is listed and found."""
    from deltakit import strategies

    return {"strategy": strategies, "mask": strategies.masks, "weights": strategies.weights}


def describe_all(kind: str) -> list[dict[str, Any]]:
    """Return what all of a kind say of themselves, by name."""
    return [described(kind, name) for name in rooms()[kind].names()]


def describe(name: str) -> dict[str, Any]:
    """Return what one says of itself, whatever its kind; an unknown one is an error."""
    for kind, room in rooms().items():
        if name in room.names():
            return described(kind, name)
    return described("strategy", name)


def described(kind: str, name: str) -> dict[str, Any]:
    """Return help, formula, paper, needs, settings, an example."""
    import dataclasses
    import inspect
    from typing import get_type_hints

    from deltakit.strategies import range_of

    found = rooms()[kind].find(name)
    hints, full = get_type_hints(found), get_type_hints(found, include_extras=True)
    settings = []
    for f in dataclasses.fields(found):
        interval = range_of(full[f.name])
        settings.append(
            {
                "name": f.name,
                "type": spell(hints[f.name]),
                "range": interval.text if interval else None,
                "default": f.default,
            }
        )
    text = inspect.getdoc(found) or ""
    try:
        looks = found().looks
    except ValueError:  # a mask that has no default for what it cannot know
        looks = "nothing"
    return {
        "name": name,
        "kind": kind,
        "family": getattr(found, "family", kind),
        "summary": " ".join(text.partition("\n\n")[0].split()),
        "formula": getattr(found, "formula", ""),
        "paper": found.paper,
        "ordered": getattr(found, "ordered", False),
        "weighted": getattr(found, "weighted", False),
        "needs": needs(found),
        "needs_importance": _flag(found, "needs_importance"),
        "most": getattr(found, "most", None),
        "looks": looks,
        "streams": streams(found),
        "streams_with": getattr(found, "streams_with", ""),
        "unit": found.unit,
        "settings": settings,
        "help": text,
        "example": example(kind, name, found),
    }


def needs(found: type[Settings]) -> str:
    """Return what must be at hand beside the fine-tuned models, in words."""
    if not _flag(found, "needs_importance"):
        return "the base; no data"
    gram = getattr(found, "statistic", "scores") == "gram"
    return f"the base, and {'Gram matrices' if gram else 'an importance map'} of each task"


def streams(found: type[Settings]) -> bool:
    """Tell whether a task can be added later, with all settings or those of `streams_with`."""
    from deltakit.strategies import Streaming

    return bool(
        issubclass(found, Streaming)
        or getattr(found, "streams_with", "")
        or _flag(found, "streams")
    )


def _flag(found: type[Settings], name: str) -> bool:
    """Return a class's flag; one that depends on the settings is off by default."""
    value = getattr(found, name, False)
    return value if isinstance(value, bool) else False


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


def example(kind: str, name: str, found: type[Settings]) -> str:
    """Return a merge command that uses it, with its first setting spelled out."""
    import dataclasses

    settings = dataclasses.fields(found)
    first = f"{settings[0].name}={settings[0].default}" if settings and settings[0].default else ""
    inline = f"{name}:{first}" if first else name
    given = {
        "strategy": f"--strategy {name}" + (f" --set {first}" if first else ""),
        "mask": f"--strategy ties --mask {inline}",
        "weights": f"--strategy average --weights auto:{inline}",
    }[kind]
    return f"deltakit merge TASK1 TASK2 {given} --out merged"


def show_all(every: list[dict[str, Any]]) -> None:
    """Print one line each by family, and what the letters mean."""
    for family, title in FAMILIES.items():
        rows = [
            [d["name"], flags(d), d["summary"], source(d["paper"])]
            for d in every
            if d["family"] == family
        ]
        table(["name", "", "what it does", "paper"], rows, align="llw", title=title)
        say()
    say("All need a base and no data, and work on any block of entries, but for:")
    say("o: the order of the tasks matters; i: needs an importance map of each task;")
    say("t: reads each tensor beforehand; m: reads the whole model beforehand;")
    say("r: works on whole rows; w: holds a whole tensor of every task at once.")
    say("s: streams: a task can be added to the result later, by merge --onto (of some")
    say("with some settings only, which NAME tells)")
    say("settings and help of one: deltakit strategies NAME")


def source(paper: str) -> str:
    """Return the paper's number where it has one."""
    found = re.search(r"arXiv:\d+\.\d+", paper)
    return found[0] if found else paper


def flags(described: dict[str, Any]) -> str:
    """Return one letter for each thing to know before choosing it."""
    letters = {"tensor": "t", "model": "m"}
    units = {"row": "r", "tensor": "w"}
    return (
        ("o" if described["ordered"] else "")
        + ("i" if described["needs_importance"] else "")
        + letters.get(described["looks"], "")
        + units.get(described["unit"], "")
        + ("s" if described["streams"] else "")
    )


def added_later(described: dict[str, Any]) -> str:
    """Return whether a task can be added later, in words."""
    if not described["streams"]:
        return "only by merging all again"
    where = f", with {described['streams_with']}" if described["streams_with"] else ""
    return f"by --onto{where}"


def show(described: dict[str, Any]) -> None:
    """Print one in full."""
    import textwrap

    paragraphs = f"{described['name']}: {described['help']}".split("\n\n")
    say("\n\n".join(textwrap.fill(" ".join(text.split()), 80) for text in paragraphs))
    say()
    looks = {"nothing": "nothing", "tensor": "each tensor", "model": "the whole model"}
    units = {"element": "any block", "row": "whole rows", "tensor": "whole tensors"}
    if described["formula"]:
        say(f"formula: {described['formula']}")
    told = [
        ("family", FAMILIES[described["family"]].partition(":")[0]),
        ("paper", described["paper"]),
        ("needs", described["needs"]),
        ("tasks", f"at most {described['most']}" if described["most"] else ""),
        ("order of tasks", "matters" if described["ordered"] else "does not matter"),
        ("weights", "one a task" if described["weighted"] else "not used"),
        ("reads beforehand", looks[described["looks"]]),
        ("works on", units[described["unit"]]),
        ("a task added later", added_later(described)),
    ]
    apart = () if described["kind"] == "strategy" else ("family", "order of tasks", "weights")
    fields([(key, value) for key, value in told if value and key not in apart])
    say()
    if described["settings"]:
        rows = [
            [s["name"], s["type"] + (f" in {s['range']}" if s["range"] else ""), str(s["default"])]
            for s in described["settings"]
        ]
        table(["setting", "values", "default"], rows)
    else:
        say("no settings")
    say()
    say(folded(described["example"]))


def folded(command: str) -> str:
    """Return a command on two lines where one would be wider than 80 columns.

    >>> print(folded("deltakit merge TASK1 TASK2 --strategy " + 27 * "x" + " --out merged"))
    deltakit merge TASK1 TASK2 --strategy xxxxxxxxxxxxxxxxxxxxxxxxxxx --out merged
    """
    if len(command) <= 80:
        return command
    cut = command.rindex(" --", 0, 80)
    return f"{command[:cut]} \\\n {command[cut:]}"
