"""Stacked layers, as a user types them."""

import json

import pytest
from typer.testing import CliRunner

from deltakit_cli.main import build
from tests.engine.merging import tune
from tests.engine.test_stacking import LAYERS, tensors
from tests.models import write_model

STACK = """
base: ./base
tasks: [{name: code, path: ./code}]
slices:
- {layers: 0-2, take: base}
- {layers: 1-3, take: code}
rules:
- {match: "*.down.weight", layers: 3-5, factor: [1, 0]}
"""


@pytest.fixture
def here(empty):
    for name, model in (("base", tensors()), ("code", tune(tensors(), 2))):
        write_model(empty / name, model, config={"num_hidden_layers": LAYERS})
    (empty / "s.yaml").write_text(STACK)
    return empty


def deltakit(*words):
    done = CliRunner().invoke(build(["merge", "recipe"]), words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_stack_is_planned_merged_and_merged_again(here):
    plan = deltakit("merge", "--recipe", "s.yaml", "--dry-run")
    assert "plan: layers stacked on base" in plan
    assert "slice     layers 1-3 of code as they are" in plan
    done = deltakit("merge", "--recipe", "s.yaml", "--out", "m")
    assert done.startswith("stacked layers into m: ")
    assert "20 tensors taken as they are" in done
    deltakit("merge", "--recipe", "m", "--out", "again")
    first, second = ((here / n / "model.safetensors").read_bytes() for n in ("m", "again"))
    assert first == second


def test_show_tells_of_each_tensor_whose_layer_it_is(here):
    shown = deltakit("recipe", "show", "s.yaml")
    for line in (
        "layers stacked on base: 20 tensors, 1 rule",
        "  0-2       layers 0-2 of base as they are",
        "  3-5       layers 1-3 of code as they are",
        "rule 1: *.down.weight, layers 3-5: 3 tensors, as in code",
        "  factor    3: 1, 4: 0.5, 5: 0",
        "taken: 7 tensors, as in code",
    ):
        assert line in shown, shown
    rows = json.loads(deltakit("recipe", "show", "s.yaml", "--json"))["tensors"]
    row = next(row for row in rows if row["name"] == "h.4.up.weight")
    assert (row["what"], row["from"]) == ("taken", {"model": "code", "tasks": {}, "layer": 2})


def test_a_stack_that_merges_too_tells_both(here):
    text = STACK.replace("rules:", "- {layers: 0-1, task_layers: {code: 2-3}}\nrules:")
    (here / "t.yaml").write_text(text + "strategy: average\n")
    assert "6-7       layers 0-1 merged, of code layers 2-3" in deltakit("recipe", "show", "t.yaml")
    done = deltakit("merge", "--recipe", "t.yaml", "--out", "m")
    assert done.startswith("merged 1 task with average into m: ")
    assert "taken or as in the base" in done


OTHERS = """
base: ./base
tasks: [{name: code, path: ./code}]
models: {math: ./math}
strategy: ties
slices:
- {layers: 0-1}
- {layers: 1-2, base: math, task_layers: {code: {model: base, layers: 2-3}}}
"""


def test_models_that_are_no_tasks_are_told_where_their_layers_are(here):
    write_model(here / "math", tune(tensors(), 3), config={"num_hidden_layers": LAYERS})
    (here / "o.yaml").write_text(OTHERS)
    shown = deltakit("recipe", "show", "o.yaml")
    assert "  2-3       layers 1-2 of math merged, in place of code layers 2-3 of base\n" in shown
    rows = json.loads(deltakit("recipe", "show", "o.yaml", "--json"))["tensors"]
    found = {row["name"]: row["from"] for row in rows}
    assert found["h.1.up.weight"] == {"model": "base", "tasks": {"code": 1}, "layer": 1}
    assert found["h.3.up.weight"] == {
        "model": "math", "tasks": {"code": 3}, "layer": 2, "places": {"code": "base"}
    }  # fmt: skip
    deltakit("merge", "--recipe", "o.yaml", "--out", "m")
    deltakit("merge", "--recipe", "m", "--out", "again")
    first, second = ((here / n / "model.safetensors").read_bytes() for n in ("m", "again"))
    assert first == second
