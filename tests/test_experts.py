"""Names become experts: tasks, folders, delta files, each with its base."""

import pytest

from deltakit.delta import Delta
from deltakit.delta_source import ModelDelta
from deltakit.errors import BadValue, NotFound, UnknownName, WrongBase
from deltakit.experts import resolve
from deltakit.store import Store
from tests.engine.merging import write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def store(models):
    store = Store.init(models)
    store.add_base("tiny", models / "base")
    store.add("a", "tiny", models / "a")
    store.add("lossless", "tiny", models / "b", lossless=True)
    store.add_base("other", models / "c")
    store.add("elsewhere", "other", models / "a")
    return store


@pytest.fixture(autouse=True)
def in_models(models, monkeypatch):
    monkeypatch.chdir(models)


def test_paths_need_no_store():
    found = resolve(["./a", "./b/"], base="./base")
    assert [expert.name for expert in found.experts] == ["a", "b"]
    assert all(isinstance(expert.source, ModelDelta) for expert in found.experts)
    assert found.table is None


def test_a_label_renames_a_path():
    assert [e.name for e in resolve(["x=./a", "y=a"], base="./base").experts] == ["x", "y"]


def test_a_task_brings_its_base_and_the_bases_table(store):
    found = resolve(["a", "lossless"], store=store)
    assert found.base.path.name == "base"
    assert found.table is not None
    assert all(isinstance(expert.source, Delta) for expert in found.experts)


def test_a_name_that_is_task_and_folder_is_the_task_and_a_path_the_folder(store):
    task, path = resolve(["a", "p=./a"], store=store).experts
    assert isinstance(task.source, Delta)
    assert isinstance(path.source, ModelDelta)


def test_a_delta_file_is_named_for_its_task(store):
    file = store.task("a").delta_path
    assert resolve([str(file)], base="tiny", store=store).experts[0].name == "a"


def test_a_single_weight_file_is_a_model():
    (expert,) = resolve(["b/model.safetensors"], base="./base").experts
    assert isinstance(expert.source, ModelDelta)
    assert expert.name == "model"


def test_tasks_of_two_bases_are_refused(store):
    with pytest.raises(WrongBase, match=r"different bases[\s\S]*tiny, as a[\s\S]*other"):
        resolve(["a", "elsewhere"], store=store)


def test_paths_without_a_base_are_refused():
    with pytest.raises(BadValue, match=r"no base is named[\s\S]*--base PATH"):
        resolve(["./a"])


@pytest.mark.parametrize("name", ["./nowhere", "nowhere/model.safetensors", "x=./nowhere"])
def test_a_path_that_is_not_there_is_refused(name):
    with pytest.raises(NotFound, match="no such model or delta"):
        resolve([name], base="./base")


def test_an_unknown_task_gets_the_nearest(store):
    with pytest.raises(UnknownName, match="did you mean 'lossless'"):
        resolve(["losless"], store=store)


def test_a_path_that_no_recipe_can_hold_is_refused(models):
    (models / "ft-\udce9").symlink_to(models / "a")
    for named in (["./ft-\udce9"], ["x=./ft-\udce9"]):
        with pytest.raises(BadValue, match="not UTF-8"):
            resolve(named, base="./base")
    with pytest.raises(BadValue, match="not UTF-8"):
        resolve(["./a"], base="./ft-\udce9")
    with pytest.raises(BadValue, match="not UTF-8"):
        resolve(["./a"], base="./base", importance=["./map-\udce9"])


@pytest.mark.parametrize("name", ["=./a", "=a", "x=", "", "="])
def test_an_empty_name_or_path_is_refused(name):
    with pytest.raises(BadValue, match="is empty"):
        resolve([name], base="./base")


def test_maps_must_be_as_many_as_tasks():
    with pytest.raises(BadValue, match="importance map goes with each task"):
        resolve(["./a", "./b"], base="./base", importance=["x"])


def test_no_names_are_refused():
    with pytest.raises(BadValue, match="no task is named"):
        resolve([])
