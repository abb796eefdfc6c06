"""deltakit merge --onto and --without, as a user types them."""

import json

import pytest
from typer.testing import CliRunner

from deltakit_cli.main import build


def merge(*words):
    return CliRunner().invoke(build(["merge"]), ["merge", *words])


TIES = ("--base", "./base", "--strategy", "ties", "--set", "density=0.4")


def same_model(one, other):
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_task_is_added_and_taken_out_again(here):
    done = merge("./a", "./b", *TIES, "--keep-state", "--out", "ab")
    assert done.exit_code == 0, done.output
    assert "of running state" in done.stdout
    done = merge("--onto", "ab", "./c", "--out", "abc")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("added 1 task to 2 with ties into abc: ")
    assert merge("./a", "./b", "./c", *TIES, "--out", "whole").exit_code == 0
    assert same_model(here / "abc", here / "whole")
    recipe = json.loads((here / "abc" / "deltakit_recipe.json").read_text())
    assert [task["name"] for task in recipe["tasks"]] == ["a", "b", "c"]
    done = merge("--onto", "abc", "--without", "c", "--out", "abc", "--overwrite")
    assert done.exit_code == 0, done.output
    assert same_model(here / "abc", here / "ab")


def test_a_dry_run_tells_which_tasks_are_in_the_state(here):
    assert merge("./a", "./b", *TIES, "--keep-state", "--out", "ab").exit_code == 0
    done = merge("--onto", "ab", "./c", "--weights", "0.5", "--out", "abc", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "ties of 3 tasks" in done.stdout
    assert done.stdout.count("the state of ab") == 2
    assert "kept beside" in done.stdout
    assert not (here / "abc").exists()


WRONG = [
    (("--without", "a"), "add --onto MERGED"),
    (("--onto", "ab"), "TASK|PATH to add is missing"),
    (("--onto", "ab", "./c", "--strategy", "ties", "--seed", "1"), "no --strategy, --seed"),
    (("--onto", "ab", "./c", "--scale", "1", "--seed", "0"), "no --scale, --seed"),
    (("--onto", "ab", "./c", "--without", "a"), "--without takes no TASK"),
    (("--onto", "ab", "./c", "--recipe", "ab"), "--onto takes no --recipe"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_the_merged_model_fixes_is_a_usage_error(here, words, said):
    done = merge(*words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split()).replace("│ ", "")


def test_a_merged_model_without_a_state_says_how_to_get_one(here):
    assert merge("./a", "./b", *TIES, "--out", "ab").exit_code == 0
    done = merge("--onto", "ab", "./c", "--out", "abc")
    assert done.exit_code != 0
    assert merge("--recipe", "ab", "--keep-state", "--out", "kept").exit_code == 0
    assert merge("--onto", "kept", "./c", "--out", "abc").exit_code == 0
