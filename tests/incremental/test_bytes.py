"""Tasks added one by one give the bytes of all at once."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from deltakit.diff import write_add
from deltakit.engine import Limits, execute
from deltakit.errors import (
    BadValue,
)
from deltakit.incremental import merge_onto, plan_onto
from deltakit.merging import merge, plan_recipe
from deltakit.recipe import Recipe
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.source import MemoryTensors
from tests.incremental.growing import STREAMING, at_once, contents, onto


@pytest.mark.parametrize("strategy", STREAMING)
def test_tasks_added_one_by_one_give_the_files_of_all_at_once(
    models: Path, tmp_path: Path, strategy: str
) -> None:
    around = {"scale": 0.8, "lines": (0.3, 0.9)}
    whole = at_once(models, strategy, "abcd", tmp_path / "whole", keep_state=True, **around)
    plain = at_once(models, strategy, "abcd", tmp_path / "plain", **around)
    ab = at_once(models, strategy, "ab", tmp_path / "ab", keep_state=True, **around)
    abc = onto(models, strategy, ab, "c", tmp_path / "abc")
    abcd = onto(models, strategy, abc, "d", tmp_path / "abcd")
    assert contents(abcd) == contents(whole)
    kept = (plain / "model.safetensors").read_bytes()
    assert (abcd / "model.safetensors").read_bytes() == kept


@settings(max_examples=5)
@given(threads=st.integers(1, 3), block=st.integers(1, 300), shard=st.integers(100, 3000))
def test_no_limit_changes_a_byte_of_the_result_or_of_its_state(
    models: Path, tmp_path_factory: pytest.TempPathFactory, threads: int, block: int, shard: int
) -> None:
    here = tmp_path_factory.mktemp("limits")
    limits = Limits(threads, block)
    more = {"max_shard_size": shard, "mask": "magnitude:density=0.5", "lines": (0.5, 1.0)}
    whole = at_once(models, "ties", "abc", here / "w", keep_state=True, **more)
    ab = at_once(models, "ties", "ab", here / "ab", keep_state=True, limits=limits, **more)
    assert contents(onto(models, "ties", ab, "c", here / "abc", limits=limits)) == contents(whole)


def test_the_recipe_of_the_result_makes_the_same_bytes_again(models: Path, tmp_path: Path) -> None:
    ab = at_once(models, "ties", "ab", tmp_path / "ab", keep_state=True)
    abc = onto(models, "ties", ab, "c", tmp_path / "abc")
    recipe = Recipe.read(abc / "deltakit_recipe.json")
    assert [task.name for task in recipe.tasks] == ["a", "b", "c"]
    execute(plan_recipe(recipe), tmp_path / "again")
    first, again = contents(abc), contents(tmp_path / "again")
    assert {name: first[name] for name in again} == again


def test_the_earlier_tasks_files_may_be_gone(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "gone")
    merge(
        [str(tmp_path / "gone")],
        "average",
        tmp_path / "m",
        base=str(models / "base"),
        keep_state=True,
    )
    shutil.rmtree(tmp_path / "gone")
    merge_onto(tmp_path / "m", [str(models / "b")], tmp_path / "m", overwrite=True)
    merge(
        [f"gone={models / 'a'}", str(models / "b")],
        "average",
        tmp_path / "n",
        base=str(models / "base"),
    )
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "mn")
    assert all(torch.equal(one[name], other[name]) for name in one)


def sparse(models: Path, out: Path, task: str, *parameters: str) -> str:
    """A stored delta that changes some parameters only."""
    base = Checkpoint.open(models / "base")
    tuned = Checkpoint.open(models / task)
    some = MemoryTensors({n: (tuned if n in parameters else base)[n] for n in base})
    write_add(out / f"{task}.safetensors", base, some, task=task)
    return str(out / f"{task}.safetensors")


GROWING = [
    ("average", {}),
    ("ties", {"settings": {"density": 0.5}}),
    ("cabs", {}),
    ("opcm", {}),
    ("dare_ties", {"mask": "nm:n=1,m=2"}),
    ("average", {"mask": "dynamic:by=depth", "lines": (0.5, 1.0)}),
]


@pytest.mark.parametrize(("strategy", "more"), GROWING, ids=str)
def test_a_parameter_that_only_a_later_task_changes_was_zero_for_the_earlier(
    models: Path, tmp_path: Path, strategy: str, more: dict[str, object]
) -> None:
    first = sparse(models, tmp_path, "a", "norm.weight", "layers.1.o.weight")
    second = sparse(models, tmp_path, "b", "layers.0.q.weight", "layers.1.o.weight")
    given = {"base": str(models / "base"), "keep_state": True, **more}
    merge([first, second], strategy, tmp_path / "whole", **given)
    merge([first], strategy, tmp_path / "one", **given)
    merge_onto(tmp_path / "one", [second], tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")


def test_new_parameters_are_refused_where_they_alter_what_was_kept(
    models: Path, tmp_path: Path
) -> None:
    first = sparse(models, tmp_path, "a", "layers.0.q.weight")
    second = sparse(models, tmp_path, "b", "layers.1.o.weight")
    refused = {
        "ties": {"settings": {"scope": "global"}},
        "klf": {"importance": [models / "a.scores.safetensors"]},
        "average": {"mask": "dynamic:by=norm"},
    }
    for strategy, more in refused.items():
        merged = tmp_path / strategy
        merge([first], strategy, merged, base=str(models / "base"), keep_state=True, **more)
        maps = {"importance": [models / "b.scores.safetensors"]} if "importance" in more else {}
        with pytest.raises(BadValue, match="parameters that no earlier one does"):
            plan_onto(merged, [second], **maps)


BITING = [
    {"within": "kind"},
    {"share": "parameters"},
    {"contrast": True},
    {"within": "kind", "share": "parameters", "contrast": True, "fusion": "adaptive"},
]


@pytest.mark.parametrize("options", BITING, ids="-".join)
def test_klf_s_options_hold_for_the_tasks_that_are_added(
    models: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    whole = at_once(models, "klf", "abcd", tmp_path / "w", keep_state=True, settings=options)
    ab = at_once(models, "klf", "ab", tmp_path / "ab", keep_state=True, settings=options)
    abc = onto(models, "klf", ab, "c", tmp_path / "abc")
    assert contents(onto(models, "klf", abc, "d", tmp_path / "abcd")) == contents(whole)
