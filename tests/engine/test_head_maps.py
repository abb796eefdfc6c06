"""Importance maps of attention heads on their way through the engine."""

from pathlib import Path

import pytest
import torch

from deltakit.engine import Limits, execute, make_plan
from deltakit.errors import BadValue, DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.recipe import Recipe
from deltakit.strategies import head_shape
from tests.engine.merging import TASKS, plan, tune, weights
from tests.models import write_model

BLOCK = "layers.0.self_attn"
SHAPES = {
    **{f"{BLOCK}.{part}_proj.weight": (8, 6) for part in "qkv"},
    f"{BLOCK}.o_proj.weight": (6, 8),
    "norm.weight": (6,),
}
# The first head matters to a, the second to b, to c nothing does more than anything else.
HEADS = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.5, 0.5]}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    drawn = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=drawn) for name, shape in SHAPES.items()}
    write_model(tmp_path / "base", base)
    for seed, task in enumerate(TASKS, 1):
        write_model(tmp_path / task, tune(base, seed))
        write_map(tmp_path, task)
    return tmp_path


def write_map(folder: Path, task: str, **changes: torch.Tensor) -> None:
    scores = {}
    for name, shape in SHAPES.items():
        grid = head_shape(name, shape, 2)
        scores[name] = torch.tensor(0.5) if grid is None else torch.tensor(HEADS[task]).view(grid)
    scores |= {f"{BLOCK}.{part}_proj.weight": values for part, values in changes.items()}
    ImportanceMap(scores, task=task, units="head").save(folder / f"{task}.imp", replace=True)


def merge_heads(folder: Path, out: Path, strategy: str, limits: Limits) -> dict[str, torch.Tensor]:
    made = plan(folder, "average")
    for expert in made.experts:
        object.__setattr__(expert, "importance", folder / f"{expert.name}.imp")
    recipe = Recipe(base=made.recipe.base, tasks=made.recipe.tasks, strategy=strategy)
    execute(make_plan(recipe, made.base, made.experts, limits=limits), out)
    return weights(out)


def test_each_head_goes_to_the_task_it_matters_to_whatever_the_blocks(models: Path) -> None:
    got = merge_heads(models, models / "out", "klf", Limits(1, 1 << 20))
    base, (a, b, c) = weights(models / "base"), (weights(models / task) for task in TASKS)
    # Of three units the quantile .8 is below the largest alone. b takes the second head from a,
    # which keeps the first; what comes next, c, is important to nobody: the old keep theirs.
    for name, shape in SHAPES.items():
        each = [tuned[name] - base[name] for tuned in (a, b, c)]
        if name == "norm.weight":
            expected = (each[0] + each[1]) / 4 + each[2] / 2
        else:
            side = 1 if "o_proj" in name else 0
            first = torch.arange(shape[side]) < shape[side] // 2
            first = first.view(1, -1) if side else first.view(-1, 1)
            old = torch.where(first, each[0], each[1])
            expected = torch.where(first, old, (old + each[2]) / 2)
        torch.testing.assert_close(got[name], base[name] + expected)
    cut = merge_heads(models, models / "cut", "klf", Limits(2, 5))
    assert all(torch.equal(cut[name], got[name]) for name in got)


@pytest.mark.parametrize("strategy", ["fisher", "ewc", "importance_weighted"])
def test_other_strategies_take_the_scores_of_heads_entry_by_entry(
    models: Path, strategy: str
) -> None:
    got = merge_heads(models, models / "out", strategy, Limits(2, 7))
    for task in TASKS:
        found = ImportanceMap.open(models / f"{task}.imp")
        each = {name: found[name].expand(1) if not found[name].dim() else _spread(found[name], name)
                for name in found}  # fmt: skip
        each["norm.weight"] = each["norm.weight"].expand(6).contiguous()
        ImportanceMap(each, task=task, units="element").save(models / f"{task}.imp", replace=True)
    expected = merge_heads(models, models / "entries", strategy, Limits(2, 7))
    assert all(torch.equal(expected[name], got[name]) for name in got)


def _spread(scores: torch.Tensor, name: str) -> torch.Tensor:
    side = 1 if "o_proj" in name else 0
    return scores.repeat_interleave(4, dim=side).expand(SHAPES[name]).contiguous()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"o": torch.tensor([[0.0, 1.0]])}, "one score, the same for all"),
        ({"o": torch.tensor([[1.0], [0.0]])}, "do not fit a parameter"),
        ({"q": torch.ones(3, 1)}, "do not divide a parameter"),
        ({"q": torch.ones(8)}, "do not fit a parameter"),
        ({"q": torch.ones(())}, "one score, the same for all"),
    ],
)
def test_a_map_that_fits_no_heads_is_refused_before_anything_is_written(
    models: Path, changes: dict[str, torch.Tensor], words: str
) -> None:
    write_map(models, "a", **changes)
    with pytest.raises(DeltakitError, match=words) as refusal:
        merge_heads(models, models / "out", "klf", Limits(1, 100))
    assert "the importance map of task 'a'" in str(refusal.value)
    assert not (models / "out").exists()


def test_a_map_of_heads_beside_one_of_rows_is_refused(models: Path) -> None:
    rows = {name: torch.ones(shape[:1]) for name, shape in SHAPES.items()}
    ImportanceMap(rows, task="b", units="row").save(models / "b.imp", replace=True)
    with pytest.raises(BadValue, match="the same units of every task"):
        merge_heads(models, models / "out", "klf", Limits(1, 100))
