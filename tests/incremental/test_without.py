"""A task taken out of a merged model leaves the merge of the others."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deltakit.engine.state import FOLDER, State
from deltakit.errors import (
    BadFile,
    BadValue,
    InputChanged,
    NotFound,
    UnknownName,
)
from deltakit.incremental import merge_onto, merge_without
from deltakit.merging import merge
from deltakit.strategies import Streaming, get
from deltakit.tensors.checkpoint import Checkpoint
from tests.incremental.growing import SHAPES, at_once, contents


@pytest.mark.parametrize("strategy", ["average", "ties", "consensus", "klf"])
def test_without_a_task_is_the_merge_of_the_others(
    models: Path, tmp_path: Path, strategy: str
) -> None:
    keeps = isinstance(get(strategy), Streaming)
    abc = at_once(models, strategy, "abc", tmp_path / "abc", keep_state=keeps)
    merge_without(abc, ["b"], tmp_path / "ac")
    ac = at_once(models, strategy, "ac", tmp_path / "whole", keep_state=keeps)
    assert contents(tmp_path / "ac") == contents(ac)


def test_without_is_refused_where_it_would_not_be_exact(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "a", tmp_path / "tuned")
    tasks = [str(tmp_path / "tuned"), str(models / "b")]
    merge(tasks, "average", tmp_path / "m", base=str(models / "base"), keep_state=True)
    merge_onto(tmp_path / "m", [str(models / "c")], tmp_path / "m", overwrite=True)
    weights = tmp_path / "tuned" / "model.safetensors"
    with pytest.raises(UnknownName, match="did you mean 'tuned'"):
        merge_without(tmp_path / "m", ["tuneb"], tmp_path / "n")
    with pytest.raises(BadValue, match="without tasks"):
        merge_without(tmp_path / "m", ["tuned", "b", "c"], tmp_path / "n")
    later = State.open(tmp_path / "m").note.since + 1
    os.utime(weights, ns=(later, later))  # after its own merge, before the second
    merge_without(tmp_path / "m", ["tuned"], tmp_path / "bc")
    with pytest.raises(InputChanged, match="after it was merged"):
        merge_without(tmp_path / "m", ["b"], tmp_path / "n")
    weights.unlink()
    with pytest.raises((NotFound, BadFile)):
        merge_without(tmp_path / "m", ["b"], tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_each_task_is_compared_with_its_own_merge(models: Path, tmp_path: Path) -> None:
    merge([str(models / "a")], "average", tmp_path / "m", base=str(models / "base"),
          keep_state=True)  # fmt: skip
    for task in "bc":
        shutil.copytree(models / task, tmp_path / task)  # written after the merge before
        for path in (tmp_path / task).iterdir():
            os.utime(path)
        merge_onto(tmp_path / "m", [str(tmp_path / task)], tmp_path / "m", overwrite=True)
    merge_without(tmp_path / "m", ["b"], tmp_path / "ac")
    merge([str(models / t) for t in "ac"], "average", tmp_path / "whole", base=str(models / "base"))
    weights = "model.safetensors"
    one, other = (tmp_path / folder / weights for folder in ("ac", "whole"))
    assert one.read_bytes() == other.read_bytes()
    first, second, third = State.open(tmp_path / "m").note.merged
    assert first < second < third
    later = second + 1
    os.utime(tmp_path / "b" / weights, ns=(later, later))
    merge_without(tmp_path / "m", ["b"], tmp_path / "ac", overwrite=True)
    with pytest.raises(InputChanged, match="after it was merged"):
        merge_without(tmp_path / "m", ["c"], tmp_path / "ab")


def test_a_base_that_moved_between_two_merges_is_not_newer(models: Path, tmp_path: Path) -> None:
    merge([str(models / "a")], "average", tmp_path / "m", base=str(models / "base"),
          keep_state=True)  # fmt: skip
    moved = shutil.copytree(models / "base", tmp_path / "moved", copy_function=shutil.copyfile)
    merge_onto(tmp_path / "m", [str(models / "b")], tmp_path / "ab", base=str(moved))
    merge_without(tmp_path / "ab", ["a"], tmp_path / "b")


def test_the_state_of_a_base_is_not_taken_for_that_of_the_result(
    models: Path, tmp_path: Path, ab: Path
) -> None:
    merge([str(models / "c")], "average", tmp_path / "plain", base=str(ab))
    assert not (tmp_path / "plain" / FOLDER).exists()
    merge([str(models / "c")], "average", tmp_path / "kept", base=str(ab), keep_state=True)
    assert [task.name for task in State.open(tmp_path / "kept").recipe.tasks] == ["c"]


def test_a_state_is_no_part_of_the_model(ab: Path) -> None:
    assert set(Checkpoint.open(ab)) == {*SHAPES, "ids"}
    assert {path.name for path in ab.glob("*.safetensors")} == {"model.safetensors"}
    kept = load_file(ab / FOLDER / "state.safetensors")
    assert set(kept) == {f"{name}.sum" for name in SHAPES}
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
