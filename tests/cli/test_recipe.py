"""deltakit recipe, and merges by rules, as a user types them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from deltakit.store import Store
from deltakit_cli.main import build
from tests.cli.running import on_terminal
from tests.engine.merging import tune, weights
from tests.models import write_model

LAYERS = 3

RULES = """
rules:
- match: "*.bias"
  exclude: true
- match: "h.*"
  layers: 1-2
  settings: {density: [0.4, 0.8]}
  weights: {b: [1, 2]}
- match: {regex: "embed.*"}
  strategy: average
"""


def tensors():
    generator = torch.Generator().manual_seed(3)
    found = {"embed.weight": torch.randn(8, 4, generator=generator)}
    for number in range(LAYERS):
        found[f"h.{number}.weight"] = torch.randn(6, 4, generator=generator)
        found[f"h.{number}.bias"] = torch.randn(6, generator=generator)
    return {**found, "ids": torch.arange(4)}


@pytest.fixture
def here(empty):
    write_model(empty / "base", tensors())
    for seed, task in enumerate(("a", "b"), 1):
        head = {"classifier.weight": torch.ones(seed, 4)}
        write_model(empty / task, {**tune(tensors(), seed), **head})
    done = deltakit("merge", *AB, "--heads", "classifier.*", "--save-recipe", "r.yaml")
    assert done.exit_code == 0, done.output
    with (empty / "r.yaml").open("a") as file:
        file.write(RULES)
    return empty


AB = ("./a", "./b", "--base", "./base", "--strategy", "ties", "--set", "density=0.3")


def deltakit(*words):
    return CliRunner().invoke(build(["merge", "recipe"]), words)


def test_a_saved_recipe_is_edited_and_merged_and_merged_again_to_the_same_bytes(here):
    assert not (here / "merged").exists(), "saving a recipe merges nothing"
    for number, recipe in enumerate(("r.yaml", "out-0", "out-0/deltakit_recipe.json", "r.json")):
        if recipe == "r.json":
            assert deltakit("recipe", "convert", "r.yaml", "r.json").exit_code == 0
        done = deltakit("merge", "--recipe", recipe, "--out", f"out-{number}")
        assert done.exit_code == 0, done.output
    for path in (p for p in sorted((here / "out-0").rglob("*")) if p.is_file()):
        for number in (1, 2, 3):
            again = here / f"out-{number}" / path.relative_to(here / "out-0")
            assert again.read_bytes() == path.read_bytes(), again
    found, base = weights(here / "out-0"), weights(here / "base")
    assert torch.equal(found["h.0.bias"], base["h.0.bias"])
    assert torch.equal(
        load_file(here / "out-0/heads/b.safetensors")["classifier.weight"], torch.ones(2, 4)
    )


def test_exclude_and_heads_are_options_too(here):
    words = (*AB, "--heads", "classifier.*", "--exclude", "*.bias", "--exclude", "embed.*")
    assert deltakit("merge", *words, "--out", "m").exit_code == 0
    found, base = weights(here / "m"), weights(here / "base")
    kept = sorted(name for name in base if torch.equal(found[name], base[name]))
    assert kept == ["embed.weight", *(f"h.{n}.bias" for n in range(LAYERS)), "ids"]


def test_a_merge_refused_for_a_head_tells_both_options(here):
    done = deltakit("merge", *AB)
    assert done.exit_code == 1
    assert "--heads GLOB" in done.stderr
    assert "--exclude GLOB" in done.stderr


def test_show_tells_the_effective_settings_of_each_tensor(here):
    done = deltakit("recipe", "show", "r.yaml", "--json")
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(done.stdout)["tensors"]}
    assert rows["h.0.bias"] == {"name": "h.0.bias", "layer": 0, "what": "excluded", "rule": 1}
    assert rows["h.0.weight"]["rule"] is None
    assert rows["h.0.weight"]["strategy"]["density"] == 0.3
    assert rows["h.1.weight"]["strategy"]["density"] == 0.4
    assert rows["h.2.weight"]["strategy"]["density"] == 0.8
    assert rows["h.2.weight"]["weights"] == {"a": 1.0, "b": 2.0}
    assert rows["embed.weight"]["strategy"] == {"name": "average"}
    assert rows["ids"]["what"] == "copied"


def test_a_mask_with_settings_for_a_task_is_shown_planned_and_merged(here):
    tasks = "[{name: a, path: ./a}, {name: b, path: ./b}]"
    mask = "{name: magnitude, settings: {density: 0.5}, tasks: {b: {density: 0.25}}}"
    text = f"base: ./base\ntasks: {tasks}\nstrategy: average\nmask: {mask}\nheads: [class*]\n"
    (here / "m.yaml").write_text(text)
    shown = deltakit("recipe", "show", "m.yaml")
    assert "magnitude, density 0.5, scope tensor, tasks b density=0.25" in shown.output
    planned = deltakit("merge", "--recipe", "m.yaml", "--dry-run")
    assert "magnitude (density=0.5, scope=tensor; b: density=0.25, scope=tensor)" in planned.output
    done = deltakit("merge", "--recipe", "m.yaml", "--out", "m")
    assert done.exit_code == 0, done.output
    base, merged = (weights(here / folder)["embed.weight"] for folder in ("base", "m"))
    kept = int((merged != base).sum())
    assert 16 <= kept <= 16 + 8  # half of 32 entries of one, a quarter of the other


def test_show_of_the_merged_folder_is_that_of_the_recipe(here):
    deltakit("merge", "--recipe", "r.yaml", "--out", "m")
    given, merged_folder = (deltakit("recipe", "show", r).stdout for r in ("r.yaml", "m"))
    assert given == merged_folder
    assert "rule 2: h.*, layers 1-2: 2 tensors" in given
    assert "density   1: 0.4, 2: 0.8" in given
    assert "tensors   h.{1-2}.weight" in given
    assert deltakit("recipe", "show", "m", "--only", "*.bias").stdout.count("tensors") == 3


def test_show_needs_no_task_but_a_base(here):
    for task in ("a", "b"):
        (here / task).rename(here / f"gone-{task}")
    assert deltakit("recipe", "show", "r.yaml").exit_code == 0
    (here / "base").rename(here / "moved")
    done = deltakit("recipe", "show", "r.yaml")
    assert done.exit_code == 1
    assert "no such model" in done.stderr
    assert deltakit("recipe", "show", "r.yaml", "--base", "./moved").exit_code == 0


def test_show_fits_a_terminal(here):
    seen = on_terminal("recipe", "show", "r.yaml", cwd=here)
    assert "rule 3: /embed.*/" in seen
    plain = seen.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.splitlines())) <= 80


def test_a_task_without_a_path_is_the_stores(here):
    bare = here / "bare"
    write_model(bare / "base", tensors())
    store = Store.init(here)
    store.add_base("tiny", bare / "base")
    for seed, task in enumerate(("x", "y"), 1):
        write_model(bare / task, tune(tensors(), seed))
        store.add(task, "tiny", bare / task, dtype="F32")
    (here / "s.yaml").write_text(
        "tasks: [{name: x}, {name: y, weight: 0.5}]\nstrategy: task_arithmetic"
    )
    done = deltakit("merge", "--recipe", "s.yaml", "--out", "m")
    assert done.exit_code == 0, done.output
    recipe = json.loads((here / "m" / "deltakit_recipe.json").read_text())
    assert recipe["tasks"][0]["path"].endswith(".safetensors")
    assert deltakit("merge", "--recipe", "m", "--out", "again").exit_code == 0
    done = deltakit("recipe", "show", "s.yaml")
    assert done.exit_code == 0, done.output
    (here / "s.yaml").write_text("tasks: [{name: z}]\nstrategy: ties")
    assert deltakit("merge", "--recipe", "s.yaml").exit_code == 1


@pytest.mark.parametrize("key", ["strategy: evil.py:X", "strategy: ties\nmask: {name: 'evil.py:X'}",
    "strategy: ties\nrules: [{strategy: 'evil.py:X'}]",
    "strategy: ties\nrules: [{mask: {name: 'evil.py:X'}}]",
    "strategy: ties\nweighting: {name: 'evil.py:X'}"])  # fmt: skip
@pytest.mark.parametrize("verb", [("merge", "--recipe"), ("recipe", "show")])
def test_no_code_that_a_recipe_names_is_run_unasked(key, verb, here):
    (here / "evil.py").write_text("open('ran', 'w').close()")
    (here / "e.yaml").write_text(f"base: base\ntasks: [{{name: a, path: a}}]\n{key}\n")
    done = deltakit(*verb, "e.yaml")
    assert done.exit_code == 1
    assert "--allow-code" in done.stderr
    assert not (here / "ran").exists()


def test_what_a_rule_option_says_is_fixed_by_a_recipe(here):
    for option in (("--exclude", "*"), ("--heads", "x")):
        done = deltakit("merge", "--recipe", "r.yaml", *option)
        assert done.exit_code == 2
        assert option[0] in done.stderr


def test_convert_refuses_to_overwrite(here):
    done = deltakit("recipe", "convert", "r.yaml", "r.yaml")
    assert done.exit_code == 1
    assert "r.yaml" in done.stderr


def test_mergekits_yaml_is_a_recipe_too_and_its_notes_are_printed(here):
    text = "merge_method: ties\nbase_model: base\nmodels: [{model: base}, {model: c}]\n"
    write_model(here / "c", tune(tensors(), 5))
    (here / "k.yaml").write_text(text + "parameters: {weight: 1, density: [0.2, 0.6]}\n")
    done = deltakit("merge", "--recipe", "k.yaml", "--out", "m")
    assert done.exit_code == 0, done.output
    assert "note: mergekit: " in done.stderr
    rows = json.loads(deltakit("recipe", "show", "k.yaml", "--json").stdout)["tensors"]
    densities = {row["name"]: row.get("strategy", {}).get("density") for row in rows}
    assert (densities["h.0.weight"], densities["h.2.weight"]) == (0.2, 0.6)
    assert densities["embed.weight"] == 0.2
    assert deltakit("merge", "--recipe", "m", "--out", "again").exit_code == 0
    first, second = ((here / n / "model.safetensors").read_bytes() for n in ("m", "again"))
    assert first == second
    (here / "k.yaml").write_text(text + "chat_template: none\n")
    done = deltakit("merge", "--recipe", "k.yaml")
    assert done.exit_code == 1
    assert "chat_template" in done.stderr
    assert "k.yaml" in done.stderr
