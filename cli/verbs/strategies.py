"""deltakit strategies: what one can merge with, and the settings of each."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from deltakit_cli.described import KINDS, describe, describe_all
from deltakit_cli.options import Json
from deltakit_cli.output import emit, fields, say, table

PANEL = "Look"
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


def show_all(every: list[dict[str, Any]]) -> None:
    """Print one line each by family, and what the letters mean."""
    for family, title in FAMILIES.items():
        rows = [
            [d["name"], flags(d), d["summary"], source(d["paper"])]
            for d in every
            if d["family"] == family
        ]
        table(["name", "", "what it does", "paper"], rows, align="llww", title=title)
        say()
    say("All need a base and no data, and work on any block of entries, but for:")
    say("o: the order of the tasks matters; i: needs an importance map of each task;")
    say("t: reads each tensor beforehand; m: reads the whole model beforehand;")
    say("r: works on whole rows; w: holds a whole tensor of every task at once.")
    say("s: streams: a task can be added to the result later, by merge --onto (some do so")
    say("with certain settings only, which NAME tells)")
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
    for text in paragraphs:
        for line in textwrap.wrap(" ".join(text.split()), 80):
            say(line)
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
    for line in folded(described["example"]).split("\n"):
        say(line)


def folded(command: str) -> str:
    """Return a command on two lines where one would be wider than 80 columns.

    >>> print(folded("deltakit merge TASK1 TASK2 --strategy " + 27 * "x" + " --out merged"))
    deltakit merge TASK1 TASK2 --strategy xxxxxxxxxxxxxxxxxxxxxxxxxxx --out merged
    """
    if len(command) <= 80:
        return command
    cut = command.rindex(" --", 0, 80)
    return f"{command[:cut]} \\\n {command[cut:]}"
