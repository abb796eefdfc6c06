"""deltakit merge --tokenizer, as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from deltakit_cli.main import build
from tests.engine.merging import tune, weights
from tests.vocabulary.worded import TENSORS, WORDS, base_tensors, numbered, write_worded


@pytest.fixture
def here(empty):
    write_worded(empty / "base", base_tensors(5), numbered(WORDS))
    for seed, (task, word) in enumerate((("a", "<x>"), ("b", "<y>"))):
        ids = numbered([*WORDS, word])
        write_worded(empty / task, tune(base_tensors(6), seed), ids, added=[word])
    return empty


def deltakit(*words):
    return CliRunner().invoke(build(["merge"]), ["merge", *words])


AB = ("./a", "./b", "--base", "./base", "--strategy", "ties")


def test_models_of_different_sizes_are_refused_with_the_option_named(here):
    done = deltakit(*AB)
    assert done.exit_code == 1
    assert "5 rows" in done.stderr
    assert "6 rows" in done.stderr
    assert "--tokenizer union" in done.stderr
    assert not (here / "merged").exists()


def test_a_dry_run_tells_tokens_rows_and_tensors(here):
    done = deltakit(*AB, "--tokenizer", "union", "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"tokens    7, 5 rows become 7, in {', '.join(TENSORS)}" in done.stdout
    assert "a: 1 tokens the base lacks, as '<x>'" in done.stdout
    plan = json.loads(deltakit(*AB, "--tokenizer", "base", "--dry-run", "--json").stdout)
    assert plan["vocabulary"] == {
        "tokens": 5,
        "rows": 5,
        "rows_in_base": 5,
        "tensors": list(TENSORS),
    }
    assert json.loads(deltakit("./base", *AB[2:], "--dry-run", "--json").stdout)["vocabulary"] is (
        None
    )


def test_the_recipe_merges_the_same_union_again_and_fixes_the_option(here):
    done = deltakit(*AB, "--tokenizer", "union", "--out", "m")
    assert done.exit_code == 0, done.output
    assert json.loads((here / "m" / "deltakit_recipe.json").read_text())["tokenizer"] == "union"
    assert "matched by token" in (here / "m" / "README.md").read_text()
    deltakit("--recipe", "m", "--out", "again")
    for name, values in weights(here / "m").items():
        assert torch.equal(values, weights(here / "again")[name])
    refused = deltakit("--recipe", "m", "--tokenizer", "base", "--out", "other")
    assert refused.exit_code == 2
    assert "--recipe fixes --tokenizer" in refused.stderr


def test_a_dry_run_tells_how_many_rows_the_recipe_names(here):
    done = deltakit(*AB, "--tokenizer", "union", "--save-recipe", "r.yaml")
    assert done.exit_code == 0, done.output
    with (here / "r.yaml").open("a") as file:
        file.write("tokens: {<x>: {source: a, force: true}, b: {zero: true}}\n")
    done = deltakit("--recipe", "r.yaml", "--dry-run")
    assert "tokens    7, 5 rows become 7, 2 as the recipe's tokens say, in " in done.stdout
    assert "note      tokens: all models have b, and keep their rows" in done.stdout
