"""The keys around the method, in a recipe's words: slices, models, tokens, dtypes; and notes."""

from pathlib import Path

import pytest

from deltakit.errors import BadFile
from deltakit.mergekit import translate
from deltakit.recipe import TokenRow
from tests.mergekit.configs import STACK, WEIGHED, form, read


def test_what_is_read_otherwise_is_told(models: Path):
    text = WEIGHED.replace("ties", "dare_ties", 1) + "dtype: bfloat16\ntokenizer_source: union\n"
    found = translate(read(text.replace("weight: 1,", "weight: 1, int8_mask: true,")))
    told = "\n".join(found.notes)
    for words in ("another generator", "exactly 0", "dtype: bfloat16", "int8_mask"):
        assert words in told
    assert (found.recipe.dtype, found.recipe.tokenizer) == ("BF16", "union")
    assert found.recipe.mask is not None
    assert found.recipe.mask.settings == {"density": 0.5, "rescale": "l1"}


def test_passthrough_is_slices_that_take(models: Path):
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


def test_the_tokenizers_keys_are_the_recipes(models: Path):
    more = "chat_template: auto\ntokenizer: {pad_to_multiple_of: 64}\n"
    found = translate(read(WEIGHED + more))
    recipe = found.recipe
    assert (recipe.tokenizer, recipe.pad_to_multiple_of) == ("union", 64)
    assert recipe.chat_template == "auto"
    assert any("mergekit pads the tokens" in note for note in found.notes)


def test_rows_of_single_tokens_are_the_recipes(models: Path):
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


def test_a_model_called_base_is_not_taken_for_the_base(models: Path):
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


def test_slices_of_other_models_are_translated_by_what_leaves_a_model_out(models: Path):

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


def test_modules_that_say_the_same_are_one_model(models: Path):
    each = "{models: [{model: a}, {model: b}], parameters: {weight: 1, density: 0.5}}"
    head = "merge_method: ties\nbase_model: base\n"
    found = translate(read(f"{head}modules: {{text: {each}, vision: {each}}}"))
    assert found.recipe == translate(read(WEIGHED)).recipe
    assert any("merged whole" in note for note in found.notes)
    with pytest.raises(BadFile, match="otherwise part by part"):
        translate(read(f"{head}modules: {{t: {each}, v: {each.replace('0.5', '0.6')}}}"))


def test_a_key_that_mergekit_reads_and_no_more_is_noted(models: Path):
    notes = translate(read(form("stacked-bases", Path()))).notes
    assert any(note.startswith("residual_weight: without effect") for note in notes)


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", "fp16", "half"])
def test_dtypes_are_mergekits_and_those_of_training_flags(dtype: str, models: Path):
    assert translate(read(WEIGHED + f"dtype: {dtype}")).recipe.dtype == "F16"
