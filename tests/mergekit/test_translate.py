"""A translated configuration says of each tensor what mergekit would."""

from pathlib import Path
from typing import Any

import pytest

from deltakit.mergekit import is_mergekit, translate
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Rules
from deltakit.tensors.checkpoint import Checkpoint
from tests.mergekit.configs import FORMS, form, read
from tests.mergekit.models import LAYERS


def evaluated(setting: Any, name: str, t: float) -> Any:
    """Mergekit's `evaluate_setting`, as it is written there."""
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if all(not isinstance(entry, dict) for entry in setting):
        scaled = t * (len(setting) - 1)
        low = int(scaled)
        high = min(len(setting) - 1, low + 1)
        return (1 - (scaled - low)) * setting[low] + (scaled - low) * setting[high]
    for part in setting:
        if part.get("filter") in (None, "*") or part["filter"] in name:
            return evaluated(part["value"], name, t)
    return None


def expected(config: Any, key: str, name: str, model: str | None, default: Any) -> Any:
    """The value of a parameter of one tensor, by mergekit's order of scopes and its t."""
    slices = config.get("slices") or [{"sources": config.get("models", [])}]
    parts = name.split(".")
    number = int(parts[2]) if parts[1] == "layers" else None
    ranges = [part["sources"][0].get("layer_range", [0, LAYERS]) for part in slices]
    if number is None:
        place, t = 0 if "embed" in name else len(slices) - 1, 0.0
    else:
        place = next(i for i, (a, b) in enumerate(ranges) if a <= number < b)
        a, b = ranges[place]
        t = (number - a) / (b - a - 1) if b - a > 1 else 1.0
    own = [s.get("parameters") for s in slices[place]["sources"] if s["model"] == model]
    for scope in (*own, slices[place].get("parameters"), config.get("parameters")):
        found = evaluated((scope or {}).get(key), name, t)
        if found is not None:
            return found
    return default


@pytest.mark.parametrize("name", ["gradient", "filters", "slices", "task_arithmetic", "linear"])
def test_weights_and_scale_of_each_tensor_are_mergekits(name: str, models: Path):
    config = read(form(name, models))
    recipe = translate(config).recipe
    rules = Rules(recipe.checked(), Checkpoint.open(models / "base").infos)
    for tensor in Checkpoint.open(models / "base").infos:
        found = rules.effective(tensor)
        for task, weight in zip(recipe.tasks, found.weights, strict=True):
            assert weight == pytest.approx(expected(config, "weight", tensor, task.path, None))
        assert found.scale == pytest.approx(expected(config, "lambda", tensor, None, 1.0)), tensor


@pytest.mark.parametrize(
    ("name", "key", "ours"), [("filters", "density", "density"), ("slerp", "t", "t")]
)
def test_settings_of_each_tensor_are_mergekits(name: str, key: str, ours: str, models: Path):
    config = read(form(name, models))
    rules = Rules(translate(config).recipe.checked(), Checkpoint.open(models / "base").infos)
    for tensor in Checkpoint.open(models / "base").infos:
        value = getattr(rules.effective(tensor).method.strategy, ours)
        assert value == pytest.approx(expected(config, key, tensor, None, None)), tensor


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_a_recipe_that_can_be_checked(name: str, models: Path):
    config = read(form(name, models))
    assert is_mergekit(config)
    recipe = translate(config).recipe
    plan = plan_recipe(recipe)
    assert Recipe.of(read(recipe.encode().decode())) == recipe
    assert not is_mergekit(read(recipe.encode().decode()))
    assert len(plan.base.infos) >= len(Checkpoint.open(models / "base").infos)
