"""What a plan refuses, before a byte is written, and what it tells."""

import pytest
import torch

from deltakit.delta import Delta
from deltakit.diff import write_add
from deltakit.engine import Expert, Limits, execute, make_plan
from deltakit.errors import (
    BadValue,
    DtypeMismatch,
    NamesDiffer,
    NonFinite,
    ShapeMismatch,
    UnknownName,
    WrongBase,
)
from deltakit.importance import ImportanceMap
from deltakit.mask import Mask
from deltakit.recipe import Recipe, Task
from deltakit.tensors.checkpoint import Checkpoint
from tests.engine.merging import TASKS, plan, weights, write_models
from tests.models import write_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


def refused(models, tmp_path, tensors, error, match):
    write_model(tmp_path / "bad", tensors)
    experts = [Expert("bad", _model(tmp_path / "bad"))]
    recipe = Recipe(base="base", tasks=[Task("bad", "bad")], strategy="average")
    with pytest.raises(error, match=match) as caught:
        make_plan(recipe, Checkpoint.open(models / "base"), experts)
    assert "task 'bad'" in str(caught.value)


def _model(path):
    from deltakit.delta_source import ModelDelta

    return ModelDelta(Checkpoint.open(path))


def test_a_missing_and_an_extra_tensor_are_refused_by_name(models, tmp_path):
    tensors = weights(models / "a")
    tensors["layer.0.wieght"] = tensors.pop("layer.0.weight")
    match = r"1 missing, 1 extra[\s\S]*layer.0.weight[\s\S]*layer.0.wieght"
    refused(models, tmp_path, tensors, NamesDiffer, match)


def test_another_vocabulary_is_refused_with_both_shapes(models, tmp_path):
    tensors = {**weights(models / "a"), "embed.weight": torch.zeros(17, 4)}
    match = r"'embed.weight' has another shape[\s\S]*\[16, 4\][\s\S]*\[17, 4\]"
    refused(models, tmp_path, tensors, ShapeMismatch, match)


def test_an_integer_where_the_base_has_a_float_is_refused(models, tmp_path):
    tensors = {**weights(models / "a"), "layer.0.bias": torch.zeros(4, dtype=torch.int64)}
    match = r"'layer.0.bias' has another dtype[\s\S]*F16[\s\S]*I64"
    refused(models, tmp_path, tensors, DtypeMismatch, match)


def test_integer_tensors_that_differ_are_told_and_copied_from_the_base(models, tmp_path):
    tensors = weights(models / "a")
    write_model(tmp_path / "x", {**tensors, "position_ids": tensors["position_ids"] + 1})
    recipe = Recipe(base="base", tasks=[Task("x", "x")], strategy="average")
    made = make_plan(
        recipe, Checkpoint.open(models / "base"), [Expert("x", _model(tmp_path / "x"))]
    )
    assert any("are the base's in what is merged: position_ids" in note for note in made.notes)
    assert plan(models, "average").notes == []


def test_an_unknown_strategy_is_refused_with_the_nearest(models):
    with pytest.raises(UnknownName, match="did you mean 'ties'"):
        plan(models, "tise")


def test_an_unknown_setting_is_refused_with_the_nearest(models):
    with pytest.raises(UnknownName, match="did you mean 'density'"):
        plan(models, "ties", settings={"densty": 0.2})


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, 20.0, float("nan")])
def test_a_density_outside_its_interval_is_refused(models, density):
    with pytest.raises(BadValue, match=r"density is outside \(0, 1\]"):
        plan(models, "ties", settings={"density": density})


def test_a_drop_rate_of_one_is_refused(models):
    with pytest.raises(BadValue, match=r"p is outside \[0, 1\)"):
        plan(models, "dare", settings={"p": 1.0})


def test_klf_without_importance_says_which_tasks_and_what_to_do(models):
    with pytest.raises(BadValue, match=r"none for a, b, c[\s\S]*deltakit importance a"):
        plan(models, "klf")


def maps(models, tmp_path, **options):
    """Give a, b and c a map each, rising, falling and flat."""
    names = [n for n, t in weights(models / "base").items() if t.is_floating_point()]
    for task, slope in zip(TASKS, (1.0, -1.0, 0.0), strict=True):
        scores = {n: torch.tensor(10.0 + slope * i) for i, n in enumerate(names)}
        ImportanceMap(scores, task=task, **options).save(tmp_path / f"{task}.safetensors")
    return [tmp_path / f"{task}.safetensors" for task in TASKS]


def klf_plan(models, paths, **settings):
    recipe = Recipe(
        base=str(models / "base"),
        tasks=[
            Task(t, str(models / t), importance=str(p)) for t, p in zip(TASKS, paths, strict=True)
        ],
        strategy="klf",
        settings=settings,
    )
    experts = [Expert(t, _model(models / t), p) for t, p in zip(TASKS, paths, strict=True)]
    return make_plan(recipe, Checkpoint.open(models / "base"), experts)


def test_klf_half_half_is_a_quarter_a_quarter_a_half(models, tmp_path):
    paths = maps(models, tmp_path)
    flat = [ImportanceMap.open(path).constant() for path in paths]
    for path, found in zip(paths, flat, strict=True):
        found.save(path, replace=True)
    execute(klf_plan(models, paths), tmp_path / "out")
    base, out = weights(models / "base"), weights(tmp_path / "out")
    d = [weights(models / t)["layer.0.weight"] - base["layer.0.weight"] for t in TASKS]
    expected = base["layer.0.weight"] + (d[0] * 0.25 + d[1] * 0.25 + d[2] * 0.5)
    assert torch.equal(out["layer.0.weight"], expected)


def test_klf_takes_no_weights(models, tmp_path):
    made = klf_plan(models, maps(models, tmp_path))
    tasks = [Task(t.name, t.path, 2.0, t.importance) for t in made.recipe.tasks]
    with pytest.raises(BadValue, match="klf takes no weights"):
        Recipe(base="base", tasks=tasks, strategy="klf").checked()


def test_a_map_that_names_parameters_of_another_model_is_refused(models, tmp_path):
    paths = maps(models, tmp_path)
    ImportanceMap({"other.weight": torch.tensor(1.0)}, task="a").save(paths[0], replace=True)
    with pytest.raises(WrongBase, match=r"task 'a' names parameters[\s\S]*other.weight"):
        klf_plan(models, paths)


def test_a_map_measured_on_another_base_is_refused_for_paths_too(models, tmp_path):
    right = Checkpoint.open(models / "base").fingerprint()
    klf_plan(models, maps(models, tmp_path, base=right))
    (tmp_path / "wrong").mkdir()
    wrong = maps(models, tmp_path / "wrong", base="0" * 64)
    with pytest.raises(WrongBase, match=r"task 'a' was made against another base[\s\S]*000"):
        klf_plan(models, wrong)


def stored(models, tmp_path, base="base"):
    write_add(
        tmp_path / "d.safetensors",
        Checkpoint.open(models / base),
        Checkpoint.open(models / "a"),
        task="a",
        dtype="F32",
    )
    return Delta.open(tmp_path / "d.safetensors")


def delta_plan(models, delta, **options):
    recipe = Recipe(base="base", tasks=[Task("a", "d")], strategy="average", **options)
    return make_plan(recipe, Checkpoint.open(models / "base"), [Expert("a", delta)])


def test_a_stored_exact_delta_merges_to_the_same_bytes_as_the_model(models, tmp_path):
    delta = stored(models, tmp_path)
    assert delta.exact
    execute(delta_plan(models, delta), tmp_path / "from-delta")
    execute(plan(models, "average", tasks=["a"]), tmp_path / "from-model")
    names = ("from-delta", "from-model")
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in names)
    assert first == second


def test_a_delta_of_another_base_is_refused_with_the_first_tensor_that_differs(models, tmp_path):
    delta = stored(models, tmp_path, base="b")
    with pytest.raises(WrongBase, match=r"task 'a'.*'embed.weight'"):
        delta_plan(models, delta)


def test_a_recipe_of_another_base_is_refused(models, tmp_path):
    delta = stored(models, tmp_path)
    made = delta_plan(models, delta)
    assert made.recipe.base_fingerprint == Checkpoint.open(models / "base").fingerprint()
    with pytest.raises(WrongBase, match="the recipe was made with another base"):
        delta_plan(models, delta, base_fingerprint="0" * 64)


def test_two_tasks_of_one_name_are_refused(models):
    with pytest.raises(BadValue, match="two tasks are called 'a'"):
        plan(models, "average", tasks=["a", "a"])


def test_the_plan_counts_the_bytes_it_reads_and_writes(models):
    made = plan(models, "average")
    size = sum(t.numel() * t.element_size() for t in weights(models / "base").values())
    floats = sum(
        t.numel() * t.element_size()
        for t in weights(models / "base").values()
        if t.is_floating_point()
    )
    assert made.bytes_out == size
    assert made.bytes_in == size + 3 * floats


def test_memory_bounds_the_block_and_too_little_is_refused(models):
    small = plan(models, "average", Limits(threads=2, memory=2_000_000))
    assert small.scratch.nbytes <= 2_000_000
    with pytest.raises(BadValue, match=r"too few for 2 threads[\s\S]*at least"):
        plan(models, "average", Limits(threads=2, memory=1000))


@pytest.mark.parametrize("limits", [Limits(threads=0), Limits(block=0)])
def test_limits_below_one_are_refused(models, limits):
    with pytest.raises(BadValue, match="not above 0"):
        plan(models, "average", limits)


def test_a_global_trim_over_two_precisions_is_refused(tmp_path):
    base = {"w": torch.ones(3, dtype=torch.float64), "v": torch.ones(3)}
    write_models(tmp_path, tensors=base)
    with pytest.raises(BadValue, match=r"one precision[\s\S]*float64 in w"):
        plan(tmp_path, "ties", settings={"scope": "global"})


def test_a_recipe_of_another_base_is_refused_for_models_too(models):
    made = plan(models, "average", base_fingerprint=Checkpoint.open(models / "base").fingerprint())
    assert made.recipe.base_fingerprint
    with pytest.raises(WrongBase, match="the recipe was made with another base"):
        plan(models, "average", base_fingerprint="0" * 64)


def test_a_klf_recipe_keeps_the_base_its_maps_were_measured_on(models, tmp_path):
    right = Checkpoint.open(models / "base").fingerprint()
    made = klf_plan(models, maps(models, tmp_path, base=right))
    assert made.recipe.base_fingerprint == right


def masked_plan(models, tmp_path, strategy, seed=0, **settings):
    write_add(
        tmp_path / "m.safetensors",
        Checkpoint.open(models / "base"),
        Checkpoint.open(models / "a"),
        task="a",
        mask=Mask.random(0.5, 0, "a"),
    )
    recipe = Recipe(
        base="base", tasks=[Task("a", "m")], strategy=strategy, seed=seed, settings=settings
    )
    expert = Expert("a", Delta.open(tmp_path / "m.safetensors"))
    return make_plan(recipe, Checkpoint.open(models / "base"), [expert])


def test_rescaling_by_the_mask_a_delta_was_thinned_with_is_refused(models, tmp_path):
    with pytest.raises(BadValue, match=r"thinned by the mask[\s\S]*another --seed"):
        masked_plan(models, tmp_path, "dare", p=0.2)


@pytest.mark.parametrize(("strategy", "seed"), [("sotu", 0), ("dare", 1), ("average", 0)])
def test_a_masked_delta_merges_where_its_mask_does_no_harm(models, tmp_path, strategy, seed):
    made = masked_plan(models, tmp_path, strategy, seed)
    assert any("stored masked (random)" in note for note in made.notes)


def test_a_tensor_no_task_changes_must_fit_the_output_dtype(tmp_path):
    base = {"w": torch.tensor([1e6]), "v": torch.ones(2)}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "a", {**base, "v": torch.tensor([2.0, 1.0])})
    made = delta_plan(tmp_path, stored(tmp_path, tmp_path), dtype="F16")
    with pytest.raises(NonFinite, match=r"base's value overflows torch.float16[\s\S]*'w'"):
        execute(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_look_holds_counts_as_memory(models):
    looking, blind = plan(models, "ties", Limits(1)), plan(models, "average", Limits(1))
    assert looking.scratch.nbytes > blind.scratch.nbytes


def test_no_block_is_larger_than_it_can_be_of_use(models):
    assert plan(models, "average", Limits(1, 1 << 44)).scratch.block <= 1 << 21


def test_maps_of_other_tasks_and_of_two_scores_are_told(models, tmp_path):
    paths = maps(models, tmp_path)
    swapped = [paths[1], paths[0], paths[2]]
    assert "measured for 'b'" in klf_plan(models, swapped).notes[0]
    found = ImportanceMap.open(paths[0])
    ImportanceMap(found, task="a", score="fisher").save(paths[0], replace=True)
    assert any("different scores" in note for note in klf_plan(models, paths).notes)
