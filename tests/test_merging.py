"""merge, in one call, from paths and from a store."""

import shutil

import pytest
import torch

import deltakit
from deltakit.engine import execute
from deltakit.errors import BadValue
from deltakit.importance import ImportanceMap
from deltakit.merging import merge, plan_recipe
from deltakit.recipe import Recipe
from deltakit.store import Store
from tests.engine.merging import TASKS, weights, write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


def paths(models):
    return [str(models / task) for task in TASKS]


def test_the_front_door_is_the_same_function():
    assert deltakit.merge is merge


def test_weights_go_with_tasks_in_order(models, tmp_path):
    merge(
        paths(models),
        "task_arithmetic",
        tmp_path / "out",
        base=str(models / "base"),
        weights=[1.0, 0.0, -2.0],
    )
    base, a, c = (weights(models / n)["layer.0.weight"] for n in ("base", "a", "c"))
    expected = base + ((a - base) + (c - base) * -2.0)
    assert torch.equal(weights(tmp_path / "out")["layer.0.weight"], expected)


def test_as_many_weights_as_tasks(models, tmp_path):
    with pytest.raises(BadValue, match="a weight goes with each task"):
        merge(paths(models), "average", tmp_path / "o", base=str(models / "base"), weights=[1.0])


def test_the_recipe_of_an_output_makes_the_same_bytes_again(models, tmp_path, monkeypatch):
    options = {"base": str(models / "base"), "settings": {"p": 0.5}, "seed": 11, "dtype": "float16"}
    merge(paths(models), "dare", tmp_path / "out", **options)
    recipe = Recipe.read(tmp_path / "out" / "deltakit_recipe.json")
    monkeypatch.chdir(tmp_path)
    execute(plan_recipe(recipe), tmp_path / "again")
    names = ("model.safetensors", "deltakit_recipe.json", "README.md", "config.json")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_stored_tasks_and_models_merge_together_and_klf_uses_the_stored_maps(models, tmp_path):
    names = [n for n, t in weights(models / "base").items() if t.is_floating_point()]
    store = Store.init(tmp_path)
    store.add_base("tiny", models / "base")
    for task in TASKS:
        scores = {name: torch.tensor(1.0) for name in names}
        store.add(
            task, "tiny", models / task, dtype="F32", importance=ImportanceMap(scores, task=task)
        )
    merge(list(TASKS), "klf", tmp_path / "klf", store=store)
    base, *tuned = (weights(models / n)["layer.0.weight"] for n in ("base", *TASKS))
    a, b, c = (t - base for t in tuned)
    expected = base + (a * 0.25 + b * 0.25 + c * 0.5)
    assert torch.equal(weights(tmp_path / "klf")["layer.0.weight"], expected)
    merge(["a", str(models / "b")], "average", tmp_path / "mixed", store=store)
    expected = base + (a * 0.5 + b * 0.5)
    assert torch.equal(weights(tmp_path / "mixed")["layer.0.weight"], expected)


def test_open_knows_what_a_file_is(models, tmp_path):
    store = Store.init(tmp_path)
    store.add_base("tiny", models / "base")
    task = store.add("a", "tiny", models / "a")
    ImportanceMap({"w": torch.tensor(1.0)}, task="a").save(tmp_path / "i.safetensors")
    deltakit.Mask.random(0.1, 0, "a").save(tmp_path / "m.safetensors")
    opened = [
        deltakit.open(path)
        for path in (models / "base", models / "a" / "model.safetensors", task.delta_path)
    ]
    assert [type(found).__name__ for found in opened] == ["Checkpoint", "Checkpoint", "Delta"]
    assert isinstance(deltakit.open(tmp_path / "i.safetensors"), ImportanceMap)
    assert deltakit.open(tmp_path / "m.safetensors") == deltakit.Mask.random(0.1, 0, "a")


def test_a_recipe_replays_whatever_its_folders_are_called_and_whoever_has_maps(models, tmp_path):
    shutil.copytree(models / "a", tmp_path / "lr=1e-5")
    store = Store.init(tmp_path)
    store.add_base("tiny", models / "base")
    names = [n for n, t in weights(models / "base").items() if t.is_floating_point()]
    scores = ImportanceMap({name: torch.tensor(1.0) for name in names}, task="b")
    store.add("b", "tiny", models / "b", importance=scores)
    merge(["b", str(tmp_path / "lr=1e-5")], "ties", tmp_path / "out", store=store)
    recipe = Recipe.read(tmp_path / "out" / "deltakit_recipe.json")
    execute(plan_recipe(recipe), tmp_path / "again")
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("out", "again"))
    assert first == second


def test_a_store_whose_path_no_recipe_can_hold_is_refused(models, tmp_path):
    store = Store.init(tmp_path / "store-\udce9")
    store.add_base("tiny", models / "base")
    store.add("a", "tiny", models / "a")
    with pytest.raises(BadValue, match="not UTF-8"):
        merge(["a"], "ties", tmp_path / "out", store=store)


def test_maps_given_to_a_strategy_without_use_for_them_are_refused(models, tmp_path):
    options = {"base": str(models / "base"), "importance": ["x", "y", "z"]}
    with pytest.raises(BadValue, match="ties uses no importance maps"):
        merge(paths(models), "ties", tmp_path / "out", **options)
