"""Rules and heads hold for the tasks that are added to a merged model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deltakit.engine import execute
from deltakit.errors import (
    BadValue,
)
from deltakit.incremental import merge_onto, merge_without, plan_onto
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Rule, Task
from deltakit.tensors.digest import CHUNK
from deltakit.tensors.files import Files
from tests.incremental.growing import contents
from tests.models import write_model


def by_recipe(models: Path, tasks: str, out: Path, **more: object) -> Path:
    """Merge some tasks by rules: another strategy, numbers that run over depth, heads aside."""
    recipe = Recipe(
        base=str(models / "base"),
        tasks=[Task(task, str(models / task), weight=0.5) for task in tasks],
        strategy="ties",
        settings={"density": [0.3, 0.6]},
        rules=[
            Rule(match="layers.1.*", strategy="average", scale=0.5, weights={"a": [3.0, 1.0]}),
            Rule(match="ids", exclude=True),
        ],
        heads=["norm.*"],
    )
    execute(plan_recipe(recipe, **more), out)
    return out


def test_rules_and_heads_hold_for_the_tasks_that_are_added(models: Path, tmp_path: Path) -> None:
    whole = by_recipe(models, "abc", tmp_path / "whole", keep_state=True)
    ab = by_recipe(models, "ab", tmp_path / "ab", keep_state=True)
    merge_onto(ab, [str(models / "c")], tmp_path / "abc", weights=[0.5])
    assert contents(tmp_path / "abc") == contents(whole)
    assert len(list((tmp_path / "abc" / "heads").iterdir())) == 3
    merge_without(whole, ["c"], tmp_path / "without")
    assert contents(tmp_path / "without") == contents(ab)
    plain = merge_without(whole, ["a"], tmp_path / "no-a")  # whose weight a rule gives
    assert plain.heads.keys() == {"b", "c"}


class Pieces(Files):
    """No more than a piece of a file is ever held at once."""

    def read(self, fd: int, buffer: memoryview, offset: int, where: str = "") -> None:
        assert len(buffer) <= CHUNK
        super().read(fd, buffer, offset, where)


def test_heads_of_any_size_are_brought_over(models: Path, tmp_path: Path) -> None:
    tasks = []
    for number, task in enumerate("ab"):
        head = torch.full((1, CHUNK // 4 + 11), float(number))
        tuned = {**load_file(models / task / "model.safetensors"), "head.weight": head}
        write_model(tmp_path / task, tuned)
        tasks.append(Task(task, str(tmp_path / task)))
    base = str(models / "base")
    recipe = Recipe(base=base, tasks=tasks[:1], strategy="average", heads=["head.*"])
    execute(plan_recipe(recipe, keep_state=True), tmp_path / "one")
    plan = plan_onto(tmp_path / "one", [tasks[1].path])
    execute(plan, tmp_path / "both", files=Pieces())
    for folder, number in (("one", 0), ("both", 0), ("both", 1)):
        file = load_file(tmp_path / folder / "heads" / f"{'ab'[number]}.safetensors")
        assert file["head.weight"].unique().tolist() == [number]
    one, both = (tmp_path / folder / "heads" / "a.safetensors" for folder in ("one", "both"))
    assert one.read_bytes() == both.read_bytes()


def test_a_rule_that_needs_all_tasks_at_once_is_named(models: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        base=str(models / "base"),
        tasks=[Task("a", str(models / "a")), Task("b", str(models / "b"))],
        strategy="ties",
        rules=[Rule(match="norm.*", strategy="consensus")],
    )
    with pytest.raises(BadValue, match="what consensus makes") as refusal:
        plan_recipe(recipe, keep_state=True)
    assert "rule 1" in str(refusal.value)
