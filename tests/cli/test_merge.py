"""deltakit merge, as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from deltakit_cli.main import build
from tests.cli.running import on_terminal
from tests.engine.merging import weights


def deltakit(*words):
    return CliRunner().invoke(build(["merge"]), ["merge", *words])


AB = ("./a", "./b", "--base", "./base")


def test_two_folders_become_one_model_without_a_store(here):
    done = deltakit(*AB, "--strategy", "ties", "--set", "density=0.3", "--out", "m")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("merged 2 tasks with ties into m: ")
    recipe = json.loads((here / "m" / "deltakit_recipe.json").read_text())
    assert recipe["settings"]["density"] == 0.3


def test_weights_scale_seed_and_dtype_reach_the_recipe(here):
    words = ("--weights", "1,-0.5", "--scale", "2", "--seed", "9", "--dtype", "bfloat16")
    done = deltakit(*AB, "-s", "task_arithmetic", *words)
    assert done.exit_code == 0, done.output
    recipe = json.loads((here / "merged" / "deltakit_recipe.json").read_text())
    assert [task["weight"] for task in recipe["tasks"]] == [1.0, -0.5]
    assert (recipe["scale"], recipe["seed"], recipe["dtype"]) == (2.0, 9, "BF16")
    assert weights(here / "merged")["layer.0.weight"].dtype == torch.bfloat16


def test_a_dry_run_tells_the_plan_and_writes_nothing(here):
    before = sorted(here.rglob("*"))
    done = deltakit(*AB, "-s", "ties", "--dry-run")
    assert done.exit_code == 0, done.output
    for word in ("ties of 2 tasks", "density=0.2", "5 merged, 2 copied", "memory", "time"):
        assert word in done.stdout
    assert "nothing was written" in done.stdout
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "c"), "the output exists already"),
        (("--out", "c", "--overwrite"), "not ours to replace"),
        (("--out", "a", "--overwrite"), "the output would replace an input"),
        (("--device", "tpu"), "no such device"),
        (("--keep-state", "--resume"), "--resume"),
    ],
)
def test_a_dry_run_refuses_what_the_merge_would(words, message, here):
    for also in ((), ("--dry-run",)):
        done = deltakit(*AB, "-s", "ties", *words, *also)
        assert done.exit_code == 1, done.output
        assert message in done.stderr
        assert not done.stdout


def test_a_dry_run_saves_no_recipe(here):
    done = deltakit(*AB, "-s", "ties", "--dry-run", "--save-recipe", "r.yaml")
    assert done.exit_code == 2
    assert not (here / "r.yaml").exists()


def test_a_dry_run_as_json_holds_the_same(here):
    plan = json.loads(deltakit(*AB, "-s", "ties", "--dry-run", "--json").stdout)
    assert plan["recipe"]["strategy"] == "ties"
    assert plan["bytes_out"] > 0
    assert plan["looks_first_at"] == "tensor"


def test_the_report_as_json(here):
    report = json.loads(deltakit(*AB, "-s", "average", "--json").stdout)
    assert set(report["task_norms"]) == {"a", "b"}
    assert report["out"] == "merged"


def test_a_recipe_is_merged_again_to_the_same_bytes(here):
    deltakit(*AB, "-s", "dare", "--out", "m")
    done = deltakit("--recipe", "m", "--out", "again", "--threads", "1")
    assert done.exit_code == 0, done.output
    first, second = ((here / n / "model.safetensors").read_bytes() for n in ("m", "again"))
    assert first == second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("./a", "--base", "./base", "-s", "tise"), "did you mean 'ties'"),
        (("./a", "--base", "./base", "-s", "ties", "--set", "density=0"), "density is outside"),
        (("./a", "--base", "./nowhere", "-s", "ties"), "no such model"),
        (("./nowhere", "--base", "./base", "-s", "ties"), "no such model or delta"),
        (("./a", "-s", "ties"), "no base is named"),
        (("./a", "--base", "./base", "-s", "klf"), "needs an importance map"),
        (("./a", "--base", "./base", "-s", "ties", "--memory", "lots"), "not a size"),
        (("./a", "--base", "./base", "-s", "ties", "--store", "x"), "there is no store"),
        (("--recipe", "none.json"), "does not exist"),
        (("--recipe", "base"), "name a recipe's file"),
        (("trec", "-s", "ties"), "deltakit init"),
    ],
)
def test_bad_input_exits_with_one_message_and_nothing_written(words, message, here):
    done = deltakit(*words)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not done.stdout
    assert not (here / "merged").exists()


@pytest.mark.parametrize(
    "option",
    [
        ("--scale", "3"),
        ("--weights", "1,2"),
        ("--set", "density=0.5"),
        ("--base", "./base"),
        ("--seed", "5"),
        ("--importance", "x"),
        ("--dtype", "bfloat16"),
        ("--max-shard-size", "1MB"),
        ("--seed", "0"),
        ("--scale", "1"),
        ("--max-shard-size", "5GB"),
        ("--weights", ""),
    ],
)
def test_what_a_recipe_fixes_is_not_given_beside_it(option, here):
    deltakit(*AB, "-s", "average", "--out", "m")
    done = deltakit("--recipe", "m", *option)
    assert done.exit_code == 2
    assert option[0] in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("./a", "--base", "./base"),
        ("./a", "-s", "ties", "--recipe", "x"),
        (*AB, "-s", "ties", "--set", "density=.1", "--set", "density=.2"),
        (*AB, "-s", "ties", "--mask", "magnitude:density=.1", "--density", ".2"),
        ("./a", "--base", "./base", "-s", "ties", "--set", "density"),
        ("./a", "--base", "./base", "-s", "ties", "--weights", "one"),
    ],
)
def test_misuse_exits_with_two(words, here):
    assert deltakit(*words).exit_code == 2


def test_an_existing_output_needs_overwrite(here):
    assert deltakit(*AB, "-s", "average").exit_code == 0
    done = deltakit(*AB, "-s", "ties")
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr
    assert deltakit(*AB, "-s", "ties", "--overwrite").exit_code == 0


def test_what_is_told_fits_a_terminal_and_is_one_line_in_a_pipe(here):
    error = on_terminal("merge", "./a", "--base", "./base", "-s", "tise", cwd=here)
    assert "task_arithmetic" in error
    assert max(map(len, error.splitlines())) <= 80
    assert "\n            " in error, "it goes on under its own beginning"
    piped = deltakit("./a", "--base", "./base", "-s", "tise").stderr
    assert len(piped.splitlines()) == 3
    told = on_terminal("merge", *AB, "-s", "ties", "--out", "a-folder-of-some-length", cwd=here)
    assert "tensors changed" in " ".join(told.split())
    assert max(map(len, told[told.index("merged 2 tasks") :].splitlines())) <= 80
