"""Rules: the first that matches counts, alone; what it leaves out is as in the recipe."""

import pytest
from msgspec import structs

from deltakit.errors import BadValue, UnknownName
from deltakit.recipe import Piece, Recipe, Regex, Rule, Rules, Task
from deltakit.recipe.text import parse

TASKS = [Task("a", "ft-a", weight=2.0), Task("b", "ft-b")]
NAMES = [
    "embed.weight",
    *(f"h.{n}.{part}" for n in range(5) for part in ("mlp.weight", "attn.weight", "mlp.bias")),
    "head.weight",
]


def recipe(*rules, **fields):
    given = {"base": "b", "tasks": TASKS, "strategy": "ties", **fields}
    return Recipe(rules=list(rules), **given)


def rules(*given, **fields):
    return Rules(recipe(*given, **fields).checked(), NAMES)


def test_the_first_rule_that_matches_counts_alone():
    found = rules(
        Rule(match="*.bias", scale=3.0),
        Rule(match="h.0.*", settings={"density": 0.5}),
        Rule(match="h.*", settings={"density": 0.7}),
    )
    assert [found.number(n) for n in ("h.0.mlp.bias", "h.0.mlp.weight", "h.3.mlp.weight")] == [
        1,
        2,
        3,
    ]
    bias = found.effective("h.0.mlp.bias")
    assert (bias.scale, bias.method.strategy.density) == (3.0, 0.2)


def test_what_a_rule_leaves_out_is_as_in_the_recipe():
    found = rules(
        Rule(match="h.0.*", weights={"b": 4.0}),
        settings={"density": 0.4},
        mask=Piece("random", {"density": "0.5"}),
        lines=(0.5, 0.5),
        scale=2.0,
    ).effective("h.0.mlp.weight")
    assert found.weights == (2.0, 4.0)
    assert found.scale == 2.0
    assert found.method.strategy.density == 0.4
    assert found.method.mask.density == 0.5
    assert found.method.lines == (0.5, 0.5)


def test_a_mask_may_have_settings_for_single_tasks():
    mask = Piece("random", {"density": 0.5}, {"b": {"density": [0.1, 0.3]}})
    found = rules(mask=mask)
    each = [dict(found.effective(f"h.{n}.mlp.weight").method.mask.each) for n in (0, 4)]
    assert [mask["b"].density for mask in each] == [0.1, 0.3]
    assert found.effective("h.0.mlp.weight").method.mask.own.density == 0.5
    spelled = recipe(mask=mask).checked()
    assert spelled.mask.tasks == {"b": {"density": [0.1, 0.3], "rescale": "none"}}
    assert spelled.checked() == spelled


def test_settings_for_a_task_that_is_not_there_are_refused():
    with pytest.raises(UnknownName, match="settings of a mask for 'bb', which is none"):
        rules(mask=Piece("random", {"density": 0.5}, {"bb": {"density": 0.1}}))
    with pytest.raises(BadValue, match="no settings for single tasks"):
        rules(weighting=Piece("similarity", {}, {"b": {}}))


def test_null_takes_away_what_the_recipe_says():
    found = rules(
        Rule(match="h.0.*", mask=None, lines=None), mask=Piece("random"), lines=(0.5, 0.5)
    ).effective("h.0.mlp.weight")
    assert found.method.mask is None
    assert found.method.lines is None


def test_another_strategy_begins_with_its_own_defaults():
    found = rules(Rule(match="h.*", strategy="dare"), settings={"density": 0.4})
    assert found.effective("h.0.mlp.weight").method.strategy.p == 0.9
    assert found.effective("head.weight").method.strategy.density == 0.4


def test_a_gradient_runs_over_the_model_or_over_the_layers_of_its_rule():
    found = rules(
        Rule(match="*.attn.*", layers="1-3", settings={"density": [0.1, 0.5]}),
        Rule(match=["*.mlp.*", "embed.*", "head.*"], scale=[0.0, 4.0], weights={"a": [1.0, 2.0]}),
    )
    densities = [found.effective(f"h.{n}.attn.weight").method.strategy.density for n in (1, 2, 3)]
    assert densities == [0.1, 0.3, 0.5]
    assert found.number("h.0.attn.weight") == 0
    names = ("embed.weight", "h.0.mlp.bias", "h.1.mlp.bias", "h.4.mlp.weight", "head.weight")
    assert [found.effective(name).scale for name in names] == [0.0, 0.0, 1.0, 4.0, 4.0]
    assert [found.effective(name).weights[0] for name in names] == [1.0, 1.0, 1.25, 2.0, 2.0]


def test_the_recipes_own_numbers_may_be_gradients_too():
    found = rules(settings={"density": [0.1, 0.5]}, scale=[1.0, 2.0])
    assert found.effective("h.2.mlp.weight").method.strategy.density == 0.3
    assert found.effective("h.2.mlp.weight").scale == 1.5


@pytest.mark.parametrize(
    "said",
    [
        {"strategy": "cabs", "settings": {"n": [1, 3]}},
        {"strategy": "cabs", "settings": {"n": [2, 2]}},
        {"mask": Piece("nm", {"n": [1, 3]})},
        {"mask": Piece("nm", {"n": 2}, {"b": {"n": [1.0, 3.0]}})},
        {"strategy": "tsv", "settings": {"r": [4, 8]}},
    ],
)
def test_a_gradient_of_whole_numbers_is_refused_where_its_values_are_whole_too(said):
    with pytest.raises(BadValue, match="whole number, which cannot run over depth"):
        recipe(Rule(layers="0-2", **said)).checked()


def test_excluded_tensors_and_heads_are_not_merged_and_heads_come_first():
    found = rules(Rule(match="*.bias", exclude=True), Rule(match="h*", scale=2.0), heads=["head.*"])
    assert [n for n in NAMES if not found.merges(n)] == [
        *(f"h.{n}.mlp.bias" for n in range(5)),
        "head.weight",
    ]
    assert found.is_head("head.weight")
    assert not found.is_head("h.0.mlp.bias")


def test_a_checked_recipe_says_all_and_checking_it_again_changes_nothing():
    once = recipe(
        Rule(match=Regex(r"h\.\d\.mlp.*"), strategy="dare", settings={"p": [0.5, 0.9]}),
        Rule(match="*.attn.*", mask=Piece("random", {"density": [0.1, 0.2]})),
        Rule(match="embed.*", exclude=True),
        settings={"density": [0.1, 0.3]},
        scale=[0.5, 1.0],
    ).checked()
    assert once.rules[0].settings == {"p": [0.5, 0.9], "rescale": "inverse"}
    assert once.rules[0].weights == {"a": 2.0, "b": 1.0}
    assert once.rules[1].settings["density"] == [0.1, 0.3]
    assert once.checked() == once
    assert Recipe.of(parse(once.encode())) == once
    changed = structs.replace(once, settings={}, scale=9.0)
    assert Rules(changed, NAMES).effective("h.2.attn.weight") == Rules(once, NAMES).effective(
        "h.2.attn.weight"
    ), "a rule of a checked recipe depends on nothing but itself"


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        (Rule(strategy="tise"), "did you mean 'ties'"),
        (Rule(settings={"densty": 1}), "did you mean 'density'"),
        (Rule(settings={"density": [0.5, 2.0]}), r"density is outside \(0, 1\]"),
        (Rule(settings={"density": []}), "other than numbers"),
        (Rule(settings={"scope": ["tensor", "global"]}), "other than numbers"),
        (Rule(weights={"c": 1.0}), "none of the tasks"),
        (Rule(weights={"a": [1.0, float("nan")]}), "other than numbers"),
        (Rule(scale=float("inf")), "not a finite number"),
        (Rule(lines=(float("nan"), 1.0)), "not a finite number"),
        (Rule(mask=Piece("ramdom")), "did you mean 'random'"),
        (Rule(exclude=True, scale=2.0), "scale means nothing"),
        (Rule(exclude=True, mask=Piece("random")), "mask means nothing"),
        (Rule(strategy="klf"), "takes no weights"),
        (Rule(weighting=Piece("metagpt")), "weights are given and are to be found"),
        (Rule(match="h.["), None),
        (Rule(match=Regex("(a+)+")), "could take for ever|repeats what"),
        (Rule(match=""), "empty"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_with_its_number(rule, match):
    if match is None:
        recipe(rule).checked()
        return
    with pytest.raises((BadValue, UnknownName), match=match) as caught:
        recipe(Rule(match="*.bias"), rule).checked()
    assert caught.value.where.startswith("rule 2")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([Rule(match="layer.*", scale=2.0)], "it matches nothing"),
        ([Rule(match="h.*", layers="9")], "not in the model"),
        ([Rule(match="h.*"), Rule(match="*.bias")], "rules before it take all"),
        ([Rule(match="head.*", layers="0-4")], "it matches nothing"),
    ],
)
def test_a_rule_that_no_tensor_comes_under_is_refused(given, why):
    with pytest.raises(BadValue, match=r"no tensor comes under|not in the model") as caught:
        rules(*given)
    assert why in str(caught.value)


def test_a_value_between_two_that_fit_is_checked_where_it_is():
    mask = Piece("outliers", {"density": [0.1, 0.95, 0.1], "gamma": 0.1})
    with pytest.raises(BadValue, match="more than 1 together") as caught:
        rules(Rule(match="*.mlp.weight", mask=mask)).effective("h.2.mlp.weight")
    assert caught.value.where.startswith("rule 1, h.2.mlp.weight")
