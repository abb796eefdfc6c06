"""Heads of differently many labels are kept beside the result, and do not break the merge."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from deltakit.diff import write_add, write_replace
from deltakit.engine import execute, make_plan
from deltakit.errors import BadValue, NamesDiffer, ShapeMismatch
from deltakit.experts import reopen
from deltakit.recipe import Recipe, Rule, Task
from deltakit.tensors.checkpoint import Checkpoint
from tests.engine.merging import merged, tune, weights, write_models
from tests.models import some_tensors, write_model

LABELS = {"a": 2, "b": 3, "c": 7}


def head(task: str) -> dict[str, torch.Tensor]:
    rows = LABELS[task]
    return {
        "classifier.weight": torch.arange(rows * 4.0).reshape(rows, 4),
        "classifier.bias": torch.full((rows,), float(rows), dtype=torch.float16),
    }


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base without a head, and fine-tunes with heads of 2, 3 and 7 labels."""
    base = some_tensors()
    write_model(tmp_path / "base", base)
    for seed, task in enumerate(LABELS, 1):
        config = {"model_type": "bert", "id2label": {str(n): f"l{n}" for n in range(LABELS[task])}}
        write_model(tmp_path / task, {**tune(base, seed), **head(task)}, config=config)
    return tmp_path


def merge(models: Path, out: str, **recipe: Any) -> Any:
    tasks = [Task(task, str(models / task)) for task in LABELS]
    made = Recipe(base=str(models / "base"), tasks=tasks, strategy="ties", **recipe)
    found = reopen(made)
    return execute(make_plan(made, found.base, found.experts), models / out)


def test_heads_are_written_byte_for_byte_a_file_for_each_task_and_listed(models: Path):
    report = merge(models, "out", heads=["classifier.*"])
    for task, labels in LABELS.items():
        path = models / "out" / "heads" / f"{task}.safetensors"
        found = load_file(path)
        assert set(found) == set(head(task))
        assert all(torch.equal(found[name], tensor) for name, tensor in head(task).items())
        assert all(found[name].dtype == tensor.dtype for name, tensor in head(task).items())
        with safe_open(path, "pt") as file:
            assert file.metadata()["task"] == task
            assert len(json.loads(file.metadata()["id2label"])) == labels
    assert report.heads == {task: f"heads/{task}.safetensors" for task in LABELS}
    assert any("classifier.bias" in note and "a" in note for note in report.notes)


def test_a_task_of_a_long_name_has_a_file_of_its_own(models: Path):
    name = "任" * 60
    (models / "b").rename(models / name)
    tasks = [
        Task("a", str(models / "a")),
        Task(name, str(models / name)),
        Task(name + "x", str(models / "c")),
    ]
    made = Recipe(
        base=str(models / "base"), tasks=tasks, strategy="average", heads=["classifier.*"]
    )
    found = reopen(made)
    report = execute(make_plan(made, found.base, found.experts), models / "out")
    assert len(set(report.heads.values())) == 3
    for task, path in report.heads.items():
        with safe_open(models / "out" / path, "pt") as file:
            assert file.metadata()["task"] == task


def test_the_rest_is_merged_as_if_there_were_no_heads(models: Path, tmp_path: Path):
    merge(models, "out", heads=["classifier.*"])
    write_models(tmp_path / "bare", tensors=some_tensors())
    expected = weights(merged(tmp_path / "bare", "ties"))
    found = weights(models / "out")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_without_the_key_heads_are_refused(models: Path):
    with pytest.raises(NamesDiffer, match="2 extra"):
        merge(models, "out")
    assert not (models / "out").exists()


def test_a_head_of_the_base_stays_in_the_result(models: Path):
    own = {**some_tensors(), "classifier.weight": torch.zeros(5, 4)}
    write_model(models / "headed", own)
    tasks = [Task(task, str(models / task)) for task in LABELS]
    made = Recipe(base=str(models / "headed"), tasks=tasks, strategy="ties", heads=["classifier.*"])
    found = reopen(made)
    execute(make_plan(made, found.base, found.experts), models / "out")
    assert torch.equal(weights(models / "out")["classifier.weight"], torch.zeros(5, 4))
    assert (models / "out" / "heads" / "c.safetensors").exists()


def test_an_excluded_tensor_may_have_any_shape_or_be_missing(models: Path):
    own = {**some_tensors(), "classifier.weight": torch.zeros(5, 4)}
    write_model(models / "headed", own)
    tasks = [Task(task, str(models / task)) for task in LABELS]
    rules = [Rule(match="classifier.*", exclude=True)]
    made = Recipe(base=str(models / "headed"), tasks=tasks, strategy="ties", rules=rules)
    found = reopen(made)
    report = execute(make_plan(made, found.base, found.experts), models / "out")
    assert torch.equal(weights(models / "out")["classifier.weight"], torch.zeros(5, 4))
    assert any("excluded, and not in the base: classifier.bias" in note for note in report.notes)
    with pytest.raises((ShapeMismatch, NamesDiffer)):
        make_plan(Recipe(base="", tasks=tasks, strategy="ties"), found.base, found.experts)


def test_a_task_without_heads_is_told_and_heads_of_no_task_are_refused(models: Path):
    write_model(models / "plain", tune(some_tensors(), 9))
    tasks = [Task("a", str(models / "a")), Task("plain", str(models / "plain"))]
    made = Recipe(base=str(models / "base"), tasks=tasks, strategy="ties", heads=["classifier.*"])
    found = reopen(made)
    plan = make_plan(made, found.base, found.experts)
    assert "without heads: plain" in plan.notes
    with pytest.raises(BadValue, match="no task has a tensor that the heads' pattern matches"):
        merge(models, "out", heads=["clasifier.*"])


def test_heads_with_all_their_rest_are_the_same_on_a_second_run(models: Path):
    merge(models, "out", heads=["classifier.*"])
    made = Recipe.read(models / "out" / "deltakit_recipe.json")
    assert made.heads == ["classifier.*"]
    found = reopen(made)
    execute(make_plan(made, found.base, found.experts), models / "again")
    for path in sorted((models / "out").rglob("*.*")):
        again = models / "again" / path.relative_to(models / "out")
        assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", ["a/b", "../up", "lr=1e-5", "né", "x" * 60, "."])
def test_a_name_of_a_task_is_no_path(name: str, models: Path):
    tasks = [Task(name, str(models / "a")), Task("b", str(models / "b"))]
    made = Recipe(base=str(models / "base"), tasks=tasks, strategy="ties", heads=["classifier.*"])
    found = reopen(made)
    report = execute(make_plan(made, found.base, found.experts), models / "out")
    written = (models / "out" / report.heads[name]).resolve()
    assert written.parent == (models / "out" / "heads").resolve()
    assert written.exists()


def test_a_lossless_delta_keeps_its_heads(models: Path):
    base = Checkpoint.open(models / "base")
    write_replace(models / "b.safetensors", base, Checkpoint.open(models / "b"), task="b")
    tasks = [Task("a", str(models / "a")), Task("b", str(models / "b.safetensors"))]
    found = {}
    for name, second in (("models", Task("b", str(models / "b"))), ("delta", tasks[1])):
        made = Recipe(
            base=str(models / "base"),
            tasks=[tasks[0], second],
            strategy="ties",
            heads=["classifier.*"],
        )
        opened = reopen(made)
        execute(make_plan(made, opened.base, opened.experts), models / name)
        found[name] = {**weights(models / name), **load_file(models / name / "heads/b.safetensors")}
    assert set(found["models"]) == set(found["delta"])
    assert all(torch.equal(found["models"][name], found["delta"][name]) for name in found["delta"])


def test_the_heads_of_an_additive_delta_cannot_be_kept(models: Path):
    headed = {**some_tensors(), "classifier.weight": torch.zeros(2, 4)}
    write_model(models / "headed", headed)
    write_model(models / "tuned", {**tune(headed, 4)})
    base = Checkpoint.open(models / "headed")
    write_add(models / "d.safetensors", base, Checkpoint.open(models / "tuned"), task="d")
    made = Recipe(
        base=str(models / "headed"),
        tasks=[Task("d", str(models / "d.safetensors")), Task("a", str(models / "a"))],
        strategy="average",
        heads=["classifier.*"],
    )
    opened = reopen(made)
    with pytest.raises(BadValue, match="cannot be kept aside"):
        make_plan(made, opened.base, opened.experts)
