"""Adding, refusing, logging and removing tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deltakit.delta import Delta
from deltakit.errors import (
    AlreadyThere,
    BadValue,
    DeltakitError,
    DtypeMismatch,
    NamesDiffer,
    NonFinite,
    NotFound,
    ShapeMismatch,
    UnknownName,
    WrongBase,
)
from deltakit.importance import ImportanceMap, importance_of_delta
from deltakit.mask import Mask
from deltakit.store import Store
from deltakit.store.made_mask import MaskPlan
from deltakit.tensors.files import Files
from tests.models import write_model
from tests.store.conftest import Project, content, tensors, tuned


def test_a_mergeable_task_is_tuned_minus_base(project: Project):
    record = project.store.task("first")
    delta = Delta.open(record.delta_path)
    base, model = tensors(), tuned(1)
    for name in ("embed.weight", "layer.weight", "layer.bias"):
        expected = (model[name].float() - base[name].float()).to(base[name].dtype)
        assert torch.equal(delta[name], expected)
    assert (record.role, record.base, record.parent) == ("add", "tiny", None)
    assert record.base_fingerprint == project.store.base("tiny").fingerprint
    assert record.density == delta.density
    assert record.nbytes == record.delta_path.stat().st_size


def test_masks_keep_what_they_say(project: Project):
    store, model = project.store, project.models / "a"
    full = Delta.open(store.task("first").delta_path)
    random = store.add("random", "tiny", model, mask=Mask.random(0.25, seed=3, task="random"))
    kept = Delta.open(random.delta_path)
    for name in kept:
        draws = Mask.random(0.25, seed=3, task="random").keep(name, 0, full[name].numel())
        expected = full[name] * torch.from_numpy(draws).reshape(full[name].shape)
        assert torch.equal(kept[name], expected)
    assert random.provenance["seed"] == "3"
    largest = store.add("largest", "tiny", model, mask=MaskPlan("magnitude", {"density": 0.25}))
    top = Delta.open(largest.delta_path)["layer.weight"]
    assert int((top != 0).sum()) == 16
    assert top.abs()[top != 0].min() >= (full["layer.weight"] - top).abs().max()


def test_values_are_stored_in_the_dtype_asked_for(project: Project):
    record = project.store.add("wide", "tiny", project.models / "a", dtype="F32")
    assert Delta.open(record.delta_path)["embed.weight"].dtype == torch.float32
    assert record.exact


def test_equal_tasks_have_equal_files(project: Project):
    again = project.store.add("again", "tiny", project.models / "a")
    stored = project.store.task("first")
    ours, theirs = Delta.open(again.delta_path), Delta.open(stored.delta_path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    project.store.remove("again")
    back = project.store.add("again", "tiny", project.models / "a")
    assert back.delta_path == again.delta_path


def test_a_task_that_exists_is_refused_with_what_to_do(project: Project):
    with pytest.raises(AlreadyThere, match="deltakit rm first"):
        project.store.add("first", "tiny", project.models / "c")
    with pytest.raises(AlreadyThere, match="upper and lower case"):
        project.store.add("FIRST", "tiny", project.models / "c")


def test_the_nearest_name_is_offered(project: Project):
    with pytest.raises(UnknownName, match="did you mean 'first'"):
        project.store.task("frist")
    with pytest.raises(UnknownName, match="did you mean 'tiny'"):
        project.store.add("new", "tinny", project.models / "c")


def break_nothing(model: dict[str, torch.Tensor]) -> None:
    """The control: a model that is not broken is taken."""


def break_name(model: dict[str, torch.Tensor]) -> None:
    model["layer.wait"] = model.pop("layer.weight")


def break_shape(model: dict[str, torch.Tensor]) -> None:
    model["embed.weight"] = torch.zeros(17, 8, dtype=torch.bfloat16)


def break_dtype(model: dict[str, torch.Tensor]) -> None:
    model["position_ids"] = model["position_ids"].float()


def break_value(model: dict[str, torch.Tensor]) -> None:
    model["layer.weight"][1, 2] = float("inf")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (break_name, NamesDiffer, "layer.weight"),
        (break_shape, ShapeMismatch, "embed.weight"),
        (break_dtype, DtypeMismatch, "position_ids"),
        (break_value, NonFinite, "layer.weight"),
        (break_nothing, None, ""),
    ],
)
def test_a_model_that_does_not_fit_adds_nothing(
    project: Project, tmp_path: Path, damage, error: type[DeltakitError] | None, words: str
):
    model = tuned(5)
    damage(model)
    write_model(tmp_path / "model", model)
    before = content(project.folder)
    if error is None:
        project.store.add("new", "tiny", tmp_path / "model")
        return
    with pytest.raises(error, match=words):
        project.store.add("new", "tiny", tmp_path / "model")
    after = content(project.folder)
    assert {name for name in set(after) - set(before) if "/locks/" not in name} == set()
    assert not (project.store.folder / "tasks" / "new").exists()


def test_lossless_goes_with_neither_mask_nor_dtype(project: Project):
    for option in ({"mask": Mask.random(0.5, 0, "new")}, {"dtype": "F32"}):
        with pytest.raises(BadValue, match="lossless"):
            project.store.add("new", "tiny", project.models / "a", lossless=True, **option)


def test_a_missing_model_is_not_found(project: Project, tmp_path: Path):
    with pytest.raises(NotFound):
        project.store.add("new", "tiny", tmp_path / "nowhere")


def test_an_importance_map_is_a_new_revision(project: Project):
    store = project.store
    first = store.task("first")
    record = store.attach_importance(
        "first", ImportanceMap({"layer.bias": torch.tensor(2.0)}, task="x")
    )
    assert record.importance_path is not None
    assert float(ImportanceMap.open(record.importance_path)["layer.bias"]) == 2.0
    assert record.parent == first.revision
    assert record.delta_path == first.delta_path
    assert store.task("first").revision == record.revision
    assert [r.revision for r in store.log("first")] == [record.revision, first.revision]
    assert [r.reason for r in store.log("first")] == ["importance", "add"]


@pytest.mark.parametrize(
    ("scores", "settings", "error", "words"),
    [
        ({"layer.bias": torch.tensor(1.0)}, {"base": "0" * 64}, WrongBase, "another base"),
        ({"layer.bios": torch.tensor(1.0)}, {}, NamesDiffer, "'layer.bias'"),
        ({"layer.weight": torch.ones(7)}, {"units": "row"}, ShapeMismatch, r"\[8\] for row"),
        ({"layer.weight": torch.ones(8)}, {"units": "element"}, ShapeMismatch, r"\[8, 8\]"),
        ({"layer.weight": torch.ones(2, 1)}, {"units": "head"}, ShapeMismatch, "of heads"),
    ],
)
def test_an_importance_map_of_another_model_is_refused(
    project: Project, scores, settings, error: type[DeltakitError], words: str
):
    found = ImportanceMap(scores, task="x", **settings)
    before = project.store.task("first").revision
    with pytest.raises(error, match=words):
        project.store.attach_importance("first", found)
    with pytest.raises(error, match=words):
        project.store.add("new", "tiny", project.models / "c", importance=found)
    assert project.store.task("first").revision == before
    assert "new" not in project.store.tasks()


def test_the_importance_of_a_delta_is_its_mean_magnitude(project: Project):
    base, table = project.store.open_base("tiny")
    delta = Delta.open(project.store.task("first").delta_path)
    found = importance_of_delta(delta, base, task="first")
    assert list(found) == ["embed.weight", "layer.bias", "layer.weight"]
    for name in found:
        assert float(found[name]) == pytest.approx(float(delta[name].double().abs().mean()))
    assert set(table.infos) - set(found) == {"position_ids"}


def test_removing_takes_the_name_and_leaves_the_files_to_gc(project: Project):
    store = project.store
    path = store.task("first").delta_path
    store.remove("first")
    assert store.tasks() == ["whole"]
    assert path.exists()
    with pytest.raises(UnknownName):
        store.remove("first")


def test_a_task_removed_while_it_is_read_is_unknown(project: Project):
    class Racing(Files):
        def open(self, path: Path) -> int:
            if path.name == "task.json":
                path.unlink()
            return super().open(path)

    with pytest.raises(UnknownName, match="no task 'first'"):
        Store.open(project.folder, Racing()).task("first")


def test_a_task_whose_manifest_is_damaged_can_be_removed(project: Project):
    (project.store.folder / "tasks" / "first" / "task.json").write_text("{")
    with pytest.raises(DeltakitError):
        project.store.task("first")
    project.store.remove("first")
    assert project.store.verify() == []


def test_a_store_is_found_upward_and_by_variable(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (project.folder / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(project.folder / "deep" / "er")
    assert Store.open().folder == project.folder / ".deltakit"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="deltakit init"):
        Store.open()
    monkeypatch.setenv("DELTAKIT_STORE", str(project.folder))
    assert Store.open().tasks() == ["first", "whole"]
    with pytest.raises(AlreadyThere):
        Store.init(project.folder)


def test_a_model_that_is_its_base_is_no_task(project: Project):
    with pytest.raises(BadValue, match="nothing to store"):
        project.store.add("same", "tiny", project.models / "base")
    assert "same" not in project.store.tasks()
    assert project.store.verify(read_data=True) == []
