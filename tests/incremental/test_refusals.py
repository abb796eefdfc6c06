"""What cannot be added to a merged model exactly is refused, and the model left as it was."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltakit.errors import (
    AlreadyThere,
    BadValue,
    NamesDiffer,
    NonFinite,
    WrongBase,
)
from deltakit.importance import ImportanceMap
from deltakit.incremental import merge_onto
from tests.incremental.growing import at_once, contents, onto
from tests.models import write_model


def test_a_strategy_that_needs_all_tasks_at_once_is_refused_with_those_that_do_not(
    models: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadValue, match="what consensus makes: it needs all tasks") as refusal:
        at_once(models, "consensus", "ab", tmp_path / "m", keep_state=True)
    assert "task_arithmetic, ties" in str(refusal.value)
    plain = at_once(models, "consensus", "ab", tmp_path / "plain")
    with pytest.raises(BadValue, match="what consensus makes"):
        onto(models, "consensus", plain, "c", tmp_path / "abc")
    for strategy, more, words in (
        ("sotu", {"settings": {}}, "p a number"),
        ("klf", {"settings": {"order": "joint"}}, "order=sequential"),
        ("average", {"mask": "random"}, "density a number"),
        ("average", {"mask": "disjoint"}, "--mask disjoint"),
        ("average", {"weights": "auto:metagpt"}, "found from all deltas"),
        ("average", {"tokenizer": "base"}, "matched by token"),
    ):
        with pytest.raises(BadValue) as refusal:
            at_once(models, strategy, "ab", tmp_path / "m", keep_state=True, **more)
        assert words in str(refusal.value)
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_kept_exactly_is_refused(models: Path, tmp_path: Path) -> None:
    for more, words in (({"resume": True}, "not resumed"), ({"allow_nonfinite": True}, "no NaN")):
        with pytest.raises(BadValue, match=words):
            at_once(models, "average", "ab", tmp_path / "m", keep_state=True, **more)
    assert not (tmp_path / "m").exists()


def test_the_base_is_the_one_that_was_merged_onto(models: Path, tmp_path: Path, ab: Path) -> None:
    moved = shutil.copytree(models / "base", tmp_path / "moved")
    merge_onto(ab, [str(models / "c")], tmp_path / "abc", base=str(moved), weights=[0.9])
    here = onto(models, "average", ab, "c", tmp_path / "here")
    weights = "model.safetensors"
    assert (tmp_path / "abc" / weights).read_bytes() == (here / weights).read_bytes()
    tensors = load_file(moved / weights)
    tensors["norm.weight"][3] += 1
    save_file(tensors, moved / weights)
    with pytest.raises(WrongBase):
        merge_onto(ab, [str(models / "c")], tmp_path / "no", base=str(moved))


def test_a_task_is_added_once(models: Path, tmp_path: Path, ab: Path) -> None:
    with pytest.raises(BadValue, match="two tasks are called 'b'"):
        onto(models, "average", ab, "b", tmp_path / "abb")


def test_importance_maps_score_what_the_earlier_ones_did(models: Path, tmp_path: Path) -> None:
    merged = at_once(models, "fisher", "a", tmp_path / "m", keep_state=True)
    fewer = {"norm.weight": torch.ones(())}
    ImportanceMap(fewer, task="b").save(tmp_path / "b.safetensors")
    with pytest.raises(NamesDiffer, match="score other parameters"):
        merge_onto(
            merged, [str(models / "b")], tmp_path / "n", importance=[tmp_path / "b.safetensors"]
        )


def test_the_merged_model_itself_is_replaced_only_when_asked(
    models: Path, tmp_path: Path, ab: Path
) -> None:
    before = contents(ab)
    with pytest.raises(AlreadyThere):
        onto(models, "average", ab, "c", ab)
    assert contents(ab) == before
    abc = onto(models, "average", ab, "c", tmp_path / "abc")
    merge_onto(ab, [str(models / "c")], ab, overwrite=True, weights=[0.9])
    assert contents(ab) == contents(abc)


def test_a_failure_leaves_the_merged_model_as_it_was(
    models: Path, tmp_path: Path, ab: Path
) -> None:
    bad = load_file(models / "c" / "model.safetensors")
    bad["norm.weight"][5] = float("nan")
    write_model(tmp_path / "bad", bad)
    before = contents(ab)
    with pytest.raises(NonFinite, match="task 'bad'"):
        merge_onto(ab, [str(tmp_path / "bad")], ab, overwrite=True)
    assert contents(ab) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ab", "bad"]
