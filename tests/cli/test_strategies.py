"""deltakit strategies: each way to merge, from the file that is it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deltakit import strategies
from deltakit_cli.main import build
from tests.cli.running import deltakit, on_terminal


def run(*args: str, columns: int = 300) -> str:
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(
        build(["strategies", "ls"]), ["strategies", *args]
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_strategy_has_a_line():
    lines = run().splitlines()
    first = [line.split()[0] for line in lines if line.strip() and line[0] != " "]
    every = [*strategies.names(), *strategies.masks.names(), *strategies.weights.names()]
    assert sorted(name for name in first if name in every) == sorted(every)
    klf = next(line for line in lines if line.startswith("klf "))
    assert klf.split()[1] == "ois"
    assert "arXiv:2408.05200" in klf


def test_the_list_fits_a_terminal_and_loses_no_word(tmp_path: Path):
    shown = on_terminal("strategies", cwd=tmp_path)
    lines = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in shown


@pytest.mark.parametrize("columns", [80, 100])
def test_the_list_wraps_where_it_is_piped_too_and_loses_no_word(columns: int):
    wide, shown = run(), run(columns=columns)
    assert columns - 10 < max(map(len, shown.splitlines())) <= columns
    assert sorted(wide.split()) == sorted(shown.split())


EVERY = [
    *(("strategy", name, strategies) for name in strategies.names()),
    *(("mask", name, strategies.masks) for name in strategies.masks.names()),
    *(("weights", name, strategies.weights) for name in strategies.weights.names()),
]


@pytest.mark.parametrize(("kind", "name", "room"), EVERY)
def test_a_strategy_shows_settings_with_their_defaults(kind: str, name: str, room: Any):
    shown = run(name)
    described = json.loads(run(name, "--json"))
    assert described == next(d for d in json.loads(run("--json")) if d["name"] == name)
    assert described["kind"] == kind
    given = {s["name"]: s["default"] for s in described["settings"]}
    if given.get("heads") != 0:
        assert room.get(name, given)
    assert max(map(len, shown.splitlines())) <= 80
    assert described["formula"] in shown
    assert 0 < len(described["formula"]) <= 71
    for setting in described["settings"]:
        assert any(
            line.split()[:1] == [setting["name"]] and line.endswith(str(setting["default"]))
            for line in shown.splitlines()
        )
    assert described["paper"] in shown
    assert described["example"] in shown.replace(" \\\n  ", " ")


def test_the_values_of_a_setting_are_spelled_as_they_are_typed():
    settings = {s["name"]: s for s in json.loads(run("ties", "--json"))["settings"]}
    assert settings["density"] == {
        "name": "density",
        "type": "number",
        "range": "(0, 1]",
        "default": 0.2,
    }
    assert settings["elect"]["type"] == "mass | count"
    sotu = json.loads(run("sotu", "--json"))
    assert {s["name"]: s["type"] for s in sotu["settings"]}["p"] == "number | auto"


def test_a_page_tells_what_must_be_at_hand():
    for name, needed in (
        ("ties", "the base; no data"),
        ("klf", "the base, and an importance map of each task"),
        ("regmean", "the base, and Gram matrices of each task"),
    ):
        assert f"needs               {needed}\n" in run(name)
    assert "tasks               at most 2\n" in run("slerp")
    assert "family              means on the sphere\n" in run("slerp")


def test_what_streams_is_told_with_the_settings_it_takes():
    listed = {line.split()[0]: line.split()[1] for line in run().splitlines() if line.strip()}
    for described in json.loads(run("--json")):
        if described["kind"] == "strategy":
            name = described["name"]
            found = strategies.find(name)
            assert described["streams"] == issubclass(found, strategies.Streaming)
            flagged = re.fullmatch("[oitmrw]*s", listed[name]) is not None
            assert flagged == described["streams"]
    assert "a task added later  by --onto, with p a number\n" in run("sotu")
    assert "a task added later  by --onto\n" in run("average")
    for name in ("consensus", "disjoint", "metagpt"):
        assert "a task added later  only by merging all again\n" in re.sub(" {3,}", "  ", run(name))


def test_an_unknown_strategy_is_an_error_with_the_nearest(tmp_path: Path):
    done = deltakit("strategies", "tie", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'ties'?" in done.stderr
