"""A merge of stacked layers: taken ones byte for byte, merged ones as in a merge of their own."""

import json

import pytest
import torch

from deltakit.engine import Limits, execute
from deltakit.errors import BadValue, DtypeMismatch, NonFinite, ShapeMismatch, UnknownName
from deltakit.merging import merge, plan_recipe
from deltakit.recipe import ModelLayers, Recipe, Rule, Slice, Task
from tests.engine.merging import tune, weights
from tests.models import write_model

LAYERS = 4


def tensors(seed=1, width=3, words=5, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(seed)
    found = {"embed.weight": torch.randn(words, width, generator=generator)}
    for number in range(LAYERS):
        found[f"h.{number}.up.weight"] = torch.randn(2 * width, width, generator=generator)
        found[f"h.{number}.down.weight"] = torch.randn(width, 2 * width, generator=generator)
        found[f"h.{number}.ids"] = torch.arange(number, number + 3)
    found["head.weight"] = torch.randn(words, width, generator=generator)
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in found.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"num_hidden_layers": LAYERS, "rope_theta": 1, "hidden_size": 3}
    write_model(tmp_path / "base", tensors(), config=config)
    write_model(tmp_path / "a", tune(tensors(), 2), config={**config, "rope_theta": 2})
    write_model(tmp_path / "b", tune(tensors(), 3), config=config, shards=2)
    return tmp_path


def recipe(*slices, tasks="ab", **more):
    return Recipe(base="base", tasks=[Task(t, t) for t in tasks], slices=list(slices), **more)


def made(out, given, limits=None, **options):
    report = execute(plan_recipe(given, limits), out, **options)
    return weights(out), report


TAKES = (Slice(layers="0-2", take="base"), Slice(layers="1-", take="b"))


def test_what_is_taken_is_the_models_own_byte_for_byte(here):
    found, report = made(here / "m", recipe(*TAKES, tasks="b"))
    base, b = weights(here / "base"), weights(here / "b")
    wanted = {"embed.weight": base["embed.weight"], "head.weight": b["head.weight"]}
    for number, (model, layer) in enumerate(
        [*((base, n) for n in range(3)), *((b, n) for n in (1, 2, 3))]
    ):
        for part in ("up.weight", "down.weight", "ids"):
            wanted[f"h.{number}.{part}"] = model[f"h.{layer}.{part}"]
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert json.loads((here / "m" / "config.json").read_text())["num_hidden_layers"] == 6
    assert (report.changed, report.copied, report.task_norms) == (0, len(wanted), {})


def test_the_base_is_stacked_on_itself_without_a_task(here):
    own = (Slice(layers="0-3", take="base"), Slice(layers="2-3", take="base"))
    found, _ = made(here / "m", recipe(*own, tasks=""))
    assert torch.equal(found["h.5.up.weight"], weights(here / "base")["h.3.up.weight"])
    assert "Layers of base, stacked" in (here / "m" / "README.md").read_text()


@pytest.mark.parametrize("strategy", ["ties", "dare", "model_stock", "iso_c"])
def test_one_slice_of_all_layers_is_the_merge_without_slices(here, strategy):
    found, _ = made(here / "m", recipe(Slice(layers="0-"), strategy=strategy))
    merge(["./a", "./b"], strategy, here / "plain", base="./base")
    plain = weights(here / "plain")
    assert set(found) == set(plain)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_merged_layers_are_those_of_a_merge_of_models_cut_to_them(here):
    slices = (Slice(layers="0-1", task_layers={"b": "2-3"}), Slice(layers=3, take="a"))
    found, _ = made(here / "m", recipe(*slices, strategy="average", scale=0.5))
    base, a, b = (weights(here / name).__getitem__ for name in ("base", "a", "b"))
    for number in range(2):
        old, one = (m(f"h.{number}.up.weight").float() for m in (base, a))
        two = b(f"h.{number + 2}.up.weight").float()
        wanted = (old + 0.5 * ((one - old) + (two - old)) / 2).bfloat16()
        assert torch.allclose(found[f"h.{number}.up.weight"].float(), wanted.float(), rtol=2**-8)
    assert torch.equal(found["h.2.up.weight"], a("h.3.up.weight"))
    assert torch.equal(found["head.weight"], a("head.weight")), "after the layers: the last slice's"


def test_rules_speak_of_the_outputs_layers_and_factor_of_what_is_taken(here):
    rules = [
        Rule(match="*.down.weight", layers="4-5", factor=0.0),
        Rule(match="h.*", layers="3-5", factor=[1.0, 0.5, 0.25]),
    ]
    found, _ = made(here / "m", recipe(*TAKES, tasks="b", rules=rules))
    b = weights(here / "b")
    assert not found["h.4.down.weight"].any()
    assert torch.equal(found["h.3.down.weight"], b["h.1.down.weight"])
    for number, factor in ((3, 1.0), (4, 0.5), (5, 0.25)):
        wanted = (b[f"h.{number - 2}.up.weight"].float() * factor).bfloat16()
        assert torch.equal(found[f"h.{number}.up.weight"], wanted)
        assert torch.equal(found[f"h.{number}.ids"], b[f"h.{number - 2}.ids"])


def test_a_factor_is_rounded_once_to_the_outputs_dtype(here):
    given = recipe(*TAKES, tasks="b", rules=[Rule(factor=1 / 3)], dtype="F32")
    found, _ = made(here / "m", given)
    wanted = weights(here / "b")["h.3.up.weight"].float() * torch.tensor(1 / 3)
    assert torch.equal(found["h.5.up.weight"], wanted)


def test_no_byte_depends_on_blocks_threads_or_an_interruption(here):
    rules = [Rule(match="*.up.weight", layers="4-5", factor=0.3)]
    slices = (*TAKES, Slice(layers="0-1"))
    given = recipe(*slices, strategy="ties", rules=rules, max_shard_size=200)
    first, _ = made(here / "m", given)
    again, _ = made(here / "n", Recipe.read(here / "m" / "deltakit_recipe.json"), Limits(1, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)

    def stop(name, count):
        if name == "h.4.up.weight":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan_recipe(given), here / "r", resume=True, progress=stop)
    resumed, report = made(here / "r", given, resume=True)
    assert report.resumed
    assert all(torch.equal(first[name], resumed[name]) for name in first)


REFUSED = [
    (recipe(*TAKES, tasks="b", strategy="ties"), "strategy means nothing"),
    (recipe(*TAKES, tasks="b", scale=2.0), "scale means nothing"),
    (recipe(*TAKES, tasks="b", rules=[Rule(exclude=True)]), "the rule means nothing"),
    (recipe(*TAKES, tasks="b", rules=[Rule(scale=2.0)]), "scale means nothing"),
    (recipe(*TAKES, tasks="b", tokenizer="union"), "tokenizer do not go together"),
    (recipe(*TAKES, tasks="b", heads=["head.*"]), "heads do not go together"),
    (recipe(Slice(layers=0)), "without a strategy"),
    (recipe(Slice(layers=0), strategy="klf"), "importance maps speak"),
    (recipe(Slice(layers=0), strategy="ties", rules=[Rule(factor=2.0)]), "and this is merged"),
    (recipe(strategy="ties", rules=[Rule(factor=2.0)]), "there are no slices"),
]


@pytest.mark.parametrize(("given", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_go_with_slices_is_refused(here, given, match):
    with pytest.raises(BadValue, match=match):
        plan_recipe(given)


def test_a_state_cannot_be_kept_of_stacked_layers(here):
    given = recipe(Slice(layers="0-1"), strategy="average")
    with pytest.raises(BadValue, match="stacked layers"):
        plan_recipe(given, keep_state=True)


def test_models_of_several_dtypes_need_one_named(here):
    write_model(here / "half", tensors(dtype=torch.float16))
    given = recipe(Slice(layers=0, take="base"), Slice(layers=0, take="half"), tasks=["half"])
    with pytest.raises(DtypeMismatch, match="several dtypes"):
        plan_recipe(given)
    given = recipe(*given.slices, tasks=["half"], dtype="BF16")
    assert made(here / "m", given)[0]["h.1.up.weight"].dtype == torch.bfloat16


def test_another_vocabulary_is_refused_where_its_rows_would_be_used(here):
    write_model(here / "more", tensors(words=6), config={"num_hidden_layers": LAYERS})
    last = recipe(Slice(layers=0, take="base"), Slice(layers=0, take="more"), tasks=["more"])
    with pytest.raises(ShapeMismatch):
        plan_recipe(last)
    middle = recipe(*last.slices, Slice(layers=1, take="base"), tasks=["more"])
    assert len(plan_recipe(middle).base.infos) == 11


def test_a_config_that_differs_is_noted_and_a_factor_that_overflows_refused(here):
    plan = plan_recipe(recipe(Slice(layers=0, take="a"), tasks="a"))
    assert any("differs in rope_theta" in note for note in plan.notes)
    given = recipe(Slice(layers=0, take="a"), tasks="a", rules=[Rule(factor=1e39)])
    with pytest.raises(NonFinite, match="too large"):
        execute(plan_recipe(given), here / "m")
    assert not (here / "m").exists()


@pytest.mark.parametrize("strategy", ["ties", "slerp", "model_stock", "sce", "average"])
def test_a_model_that_is_only_taken_has_no_part_in_any_merge(here, strategy):
    """Without models it was a task that was merged too, or refused where weights are not 0."""
    write_model(here / "c", tune(tensors(), 4), config={"num_hidden_layers": LAYERS})
    slices = (Slice(layers="0-3"), Slice(layers="1-2", take="c"))
    found, _ = made(here / "m", recipe(*slices, strategy=strategy, models={"c": "c"}))
    merge(["./a", "./b"], strategy, here / "plain", base="./base")
    plain, c = weights(here / "plain"), weights(here / "c")
    for name in tensors():
        if name.startswith("h."):
            assert torch.equal(found[name], plain[name]), name
    for part in ("up.weight", "down.weight", "ids"):
        for number in (1, 2):
            assert torch.equal(found[f"h.{number + 3}.{part}"], c[f"h.{number}.{part}"])
    again, _ = made(here / "again", Recipe.read(here / "m" / "deltakit_recipe.json"))
    assert all(torch.equal(again[name], found[name]) for name in found)


@pytest.mark.parametrize("strategy", ["ties", "slerp", "model_stock"])
def test_a_slice_of_another_base_is_a_merge_onto_that(here, strategy):
    write_model(here / "c", tune(tensors(), 4), config={"num_hidden_layers": LAYERS})
    one = Slice(layers="0-1")
    two = Slice(layers="2-3", base="c", task_layers={"a": ModelLayers("base", "2-3")})
    found, _ = made(here / "m", recipe(one, two, strategy=strategy, models={"c": "c"}))
    merge(["./a", "./b"], strategy, here / "one", base="./base")
    merge(["a=./base", "b=./b"], strategy, here / "two", base="./c")
    wanted = (weights(here / "one"), weights(here / "two"))
    for name, tensor in found.items():
        first = name.startswith(("embed", "h.0", "h.1"))
        assert torch.equal(tensor, wanted[0 if first else 1][name]), name


@pytest.mark.parametrize(
    ("slices", "models", "match"),
    [
        ([Slice(layers=0, take="d")], {"c": "c"}, "did you mean|none of the models"),
        ([Slice(layers=0)], {"c": "c"}, "no slice names the model 'c'"),
        ([], {"c": "c"}, "no slice names the model 'c'"),
        ([Slice(layers=0, take="a"), Slice(layers=1)], {"a": "c"}, "a task too"),
        ([Slice(layers=0, take="base")], {"base": "c"}, "the base too"),
        ([Slice(layers=0, take="c", base="c")], {"c": "c"}, "are of one model"),
        (
            [Slice(layers=0, task_layers={"a": ModelLayers("x", 0)})],
            {},
            "'x', which is none of the models",
        ),
    ],
)
def test_models_that_mean_nothing_are_refused(here, slices, models, match):
    with pytest.raises((BadValue, UnknownName), match=match):
        recipe(*slices, strategy="ties", models=models).checked()
