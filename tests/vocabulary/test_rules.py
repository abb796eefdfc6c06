"""Vocabularies under a recipe's rules: what is not merged, and weights of single tensors."""

import pytest
import torch
from safetensors.torch import load_file

from deltakit.engine import execute
from deltakit.errors import ShapeMismatch
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Rule, Task
from tests.engine.merging import tune, weights
from tests.vocabulary.worded import TENSORS, WORDS, base_tensors, numbered, write_worded


@pytest.fixture
def models(tmp_path):
    """A base of five rows, and two tasks that have one and the same word more."""
    write_worded(tmp_path / "base", base_tensors(5), numbered(WORDS))
    for seed, task in enumerate("ab", 1):
        tensors = tune(base_tensors(6), seed)
        write_worded(tmp_path / task, tensors, numbered([*WORDS, "<x>"]), added=["<x>"])
    return tmp_path


def planned(folder, **recipe):
    tasks = [Task(task, str(folder / task)) for task in "ab"]
    made = Recipe(base=str(folder / "base"), tasks=tasks, strategy="task_arithmetic", **recipe)
    return plan_recipe(made)


def test_a_new_row_is_a_mean_by_the_weights_of_its_tensor(models):
    rules = [Rule(match="lm_head.weight", weights={"a": 3.0})]
    execute(planned(models, tokenizer="union", rules=rules), models / "out")
    found = weights(models / "out")
    a, b = (weights(models / task) for task in "ab")
    for name in TENSORS:
        share = 0.75 if name == "lm_head.weight" else 0.5
        expected = a[name][5].double() * share + b[name][5].double() * (1 - share)
        assert torch.equal(found[name][5], expected.float())


def test_what_is_not_merged_is_the_base_s_and_grows_with_the_rest(models):
    rules = [Rule(match="lm_head.*", exclude=True)]
    execute(planned(models, tokenizer="union", rules=rules), models / "out")
    found = weights(models / "out")
    for name in ("lm_head.weight", "lm_head.bias"):
        assert len(found[name]) == 6
        assert torch.equal(found[name][:5], base_tensors(5)[name])


def test_vocabularies_that_are_not_merged_are_not_compared(models):
    with pytest.raises(ShapeMismatch, match=r"(.|\n)*lm_head"):
        planned(models, rules=[Rule(match="model.embed_tokens.weight", exclude=True)])
    rules = [Rule(match=["lm_head.*", "model.embed_tokens.weight"], exclude=True)]
    execute(planned(models, rules=rules), models / "out")
    assert torch.equal(weights(models / "out")[TENSORS[0]], base_tensors(5)[TENSORS[0]])


def test_heads_kept_aside_stay_in_their_task_s_vocabulary(models):
    execute(planned(models, tokenizer="base", heads=["lm_head.*"]), models / "out")
    for task in "ab":
        kept = load_file(models / "out" / "heads" / f"{task}.safetensors")
        assert torch.equal(kept["lm_head.bias"], weights(models / task)["lm_head.bias"])
    assert len(weights(models / "out")["lm_head.bias"]) == 5
