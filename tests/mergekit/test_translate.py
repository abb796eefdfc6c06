"""A translated configuration says of each tensor what mergekit would, or is refused by its key."""

from pathlib import Path
from typing import Any

import pytest

from deltakit.errors import BadFile, BadValue
from deltakit.mergekit import is_mergekit, translate
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Rules, TokenRow
from deltakit.recipe.text import parse
from deltakit.tensors.checkpoint import Checkpoint
from tests.mergekit.configs import FORMS, form
from tests.mergekit.models import LAYERS, write_llamas


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamas")
    write_llamas(folder)
    return folder


def read(text: str) -> Any:
    return parse(text.encode(), is_yaml=True)


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


SLERP = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n"
STACK = """merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 4]}]
- sources: [{model: b, layer_range: [2, 6]}]
"""

HEAD = "merge_method: ties\nbase_model: base\nmodels:\n- {model: a}\n- {model: b}\n"
WEIGHED = HEAD + "parameters: {weight: 1, density: 0.5}\n"

REFUSED = [
    (HEAD, "weight is missing for"),
    (WEIGHED + "chat_template: llama3", "known here"),
    (WEIGHED + "modules: {x: {}}", "exactly one of models, slices and modules"),
    (WEIGHED + "tokenizer: {tokens: {x: {force: true}}}", "without its source"),
    (WEIGHED + "tokenizer: {tokens: {x: {sorce: a}}}", "unknown key 'sorce'"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: {kind: zeros}}}}", "of another kind"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: {kind: zero, token: b}}}}", "key 'token'"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}", "exactly one"),
    (WEIGHED + "tokenizer: {tokens: {x: {source: .}}}", "a model that is not merged"),
    (STACK + "tokenizer: {tokens: {x: {source: a}}}", "rows of stacked layers"),
    (WEIGHED + "tokenizer: {source: a}\ntokenizer_source: a", "both there"),
    (STACK + "tokenizer: {pad_to_multiple_of: 8}", "rows of stacked layers"),
    (WEIGHED + "tokeniser_source: base", "unknown key 'tokeniser_source'"),
    (WEIGHED.replace("density", "densty"), "has no 'densty'"),
    (WEIGHED.replace("ties", "tise", 1), "'tise' has no counterpart"),
    ("merge_method: passthrough\nmodels: [{model: a}, {model: b}]", "one source a slice"),
    ("merge_method: linear\nmodules: {x: {models: [{model: a}]}, y: {}}", "part by part"),
    ("merge_method: linear\nmodules: {x: {}}", "exactly one of models and slices"),
    ("merge_method: linear\nmodules: {}", "exactly one of models and slices"),
    (
        WEIGHED.replace("weight: 1,", "weight: 1, rescale: true,"),
        "rescale: True has no counterpart",
    ),
    (WEIGHED.replace("base_model: base\n", ""), "base_model is missing"),
    (WEIGHED.replace("{model: a}", "{model: org/name}"), "no such folder"),
    (WEIGHED.replace("{model: a}", "{model: a+lora}"), "an adapter on it"),
    (
        HEAD.replace("{model: a}", "{model: a, parameters: {density: 0.2}}")
        + "parameters: {weight: 1, density: 0.5}\n",
        "density differs from model to model",
    ),
    (
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
        "parameters: {normalize: false, weight: 2}\nbase_model: b",
        "base_model is not among the models",
    ),
    (
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n"
        "- {model: b, parameters: {weight: 1}}\nparameters: {normalize: false}",
        "do not sum to 1",
    ),
    (SLERP + "- sources: [{model: b, layer_range: [0, 4]}]", "slerp of one source"),
    (
        SLERP + "- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 3]}]",
        "different numbers of layers",
    ),
    (
        SLERP + "- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]\n"
        "- sources: [{model: a, layer_range: [0, 4]}, {model: base, layer_range: [0, 4]},"
        " {model: b, layer_range: [0, 4]}]",
        "each slice is to be made of as many",
    ),
    (STACK.replace("0, 4", "4, 4"), "without layers"),
    (STACK.replace("0, 4", "0, 9"), "not in the model"),
    (STACK + "tokenizer_source: b\n", "the tokenizer of their base"),
    (STACK.replace("passthrough", "ties"), "base_model is missing"),
    (STACK.replace("passthrough", "linear") + "parameters: {weight: 0}", "other than the source"),
]


@pytest.mark.parametrize(("text", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_has_no_counterpart_is_refused_by_its_key(
    text: str, match: str, models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(models)
    with pytest.raises((BadFile, BadValue), match=match):
        translate(read(text))


def test_what_is_read_otherwise_is_told(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(models)
    text = WEIGHED.replace("ties", "dare_ties", 1) + "dtype: bfloat16\ntokenizer_source: union\n"
    found = translate(read(text.replace("weight: 1,", "weight: 1, int8_mask: true,")))
    told = "\n".join(found.notes)
    for words in ("another generator", "exactly 0", "dtype: bfloat16", "int8_mask"):
        assert words in told
    assert (found.recipe.dtype, found.recipe.tokenizer) == ("BF16", "union")
    assert found.recipe.mask is not None
    assert found.recipe.mask.settings == {"density": 0.5, "rescale": "l1"}


def test_passthrough_is_slices_that_take(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(models)
    found = translate(read(STACK + "tokenizer_source: union\n"))
    assert [part.text for part in found.recipe.slices] == [
        "layers 0-3 of base as they are", "layers 2-5 of b as they are"
    ]  # fmt: skip
    assert (found.recipe.base, found.recipe.strategy, found.recipe.rules) == ("a", "", [])
    scaled = STACK.replace(
        "[2, 6]}", "[2, 6], parameters: {scale: [{filter: v_p, value: 0}, {value: 1}]}}"
    )
    (rule,) = translate(read(scaled)).recipe.rules
    assert (rule.match, rule.layers, rule.factor) == ("*v_p*", [4, 7], 0.0)
    told = "\n".join(found.notes)
    assert "tokenizer of stacked layers is the base's" in told
    assert "those of the first slice's model" in told
    more = STACK.replace("passthrough", "linear").replace(
        "[{model: b", "[{model: a, layer_range: [2, 6]}, {model: b"
    )
    told = "\n".join(translate(read(more + "parameters: {weight: 1}")).notes)
    assert "where the first slice has fewer" in told


def test_the_tokenizers_keys_are_the_recipes(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(models)
    more = "chat_template: auto\ntokenizer: {pad_to_multiple_of: 64}\n"
    found = translate(read(WEIGHED + more))
    recipe = found.recipe
    assert (recipe.tokenizer, recipe.pad_to_multiple_of) == ("union", 64)
    assert recipe.chat_template == "auto"
    assert any("mergekit pads the tokens" in note for note in found.notes)


def test_rows_of_single_tokens_are_the_recipes(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(models)
    more = """tokenizer:
  source: base
  tokens:
    <x>: {source: a}
    <y>: {source: {model: {path: base}}, force: true}
    <z>: {source: {kind: zero}}
    <u>: {source: {kind: model_token, model: b, token: c}, force: true}
    <v>: {source: {kind: model_token, model: b, token_id: 7}}
"""
    recipe = translate(read(WEIGHED + more)).recipe
    assert recipe.tokenizer == "base"
    assert recipe.tokens == {
        "<x>": TokenRow(source="a"),
        "<y>": TokenRow(source="base", force=True),
        "<z>": TokenRow(zero=True),
        "<u>": TokenRow(source="b", like="c", force=True),
        "<v>": TokenRow(source="b", like=7),
    }
    assert recipe.checked()


def test_a_model_called_base_is_not_taken_for_the_base(
    models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(models)
    text = WEIGHED.replace("base_model: base", "base_model: a").replace(
        "{model: a}", "{model: base}"
    )
    more = "tokenizer: {tokens: {x: {source: base}, y: {source: a}}}"
    recipe = translate(read(text + more)).recipe.checked()
    assert [task.name for task in recipe.tasks] == ["base-1", "b"]
    assert {token: row.source for token, row in recipe.tokens.items()} == {
        "x": "base-1",
        "y": "base",
    }


def test_slices_of_other_models_are_translated_by_what_leaves_a_model_out(
    models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(models)

    def slices(name: str) -> list[str]:
        recipe = translate(read(form(name, Path()))).recipe
        return [*(part.text for part in recipe.slices), *(task.name for task in recipe.tasks)]

    assert slices("stacked-others") == [
        "layers 0-2 merged",
        "layers 2-4 merged, in place of a layers 2-4 of base, of b layers 3-5",
        "layers 1-2 of a as they are",
        "a",
        "b",
    ]
    assert slices("stacked-slerps") == [
        "layers 0-2 merged",
        "layers 2-3 merged, in place of b layers 1-2 of base-1",
        "layers 3-5 of b merged, in place of a layers 3-5 of b, in place of b layers 3-5 of base-1",
        "a",
        "b",
    ]
    assert slices("stacked-sce") == [
        "layers 0-3 merged", "layers 2-3 merged, in place of a layers 4-5 of b", "a"
    ]  # fmt: skip
    assert translate(read(form("stacked-sce", Path()))).recipe.models == {"b": "b"}


def test_modules_that_say_the_same_are_one_model(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(models)
    each = "{models: [{model: a}, {model: b}], parameters: {weight: 1, density: 0.5}}"
    head = "merge_method: ties\nbase_model: base\n"
    found = translate(read(f"{head}modules: {{text: {each}, vision: {each}}}"))
    assert found.recipe == translate(read(WEIGHED)).recipe
    assert any("merged whole" in note for note in found.notes)
    with pytest.raises(BadFile, match="otherwise part by part"):
        translate(read(f"{head}modules: {{t: {each}, v: {each.replace('0.5', '0.6')}}}"))


def test_a_key_that_mergekit_reads_and_no_more_is_noted(
    models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(models)
    notes = translate(read(form("stacked-bases", Path()))).notes
    assert any(note.startswith("residual_weight: without effect") for note in notes)


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", "fp16", "half"])
def test_dtypes_are_mergekits_and_those_of_training_flags(
    dtype: str, models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(models)
    assert translate(read(WEIGHED + f"dtype: {dtype}")).recipe.dtype == "F16"
