"""A token's row named by the recipe: whose it is, in all models or in those that lack it."""

import json

import pytest
import torch

from deltakit.diff import write_add
from deltakit.engine import Limits, execute
from deltakit.engine.resume import key
from deltakit.errors import BadFile, BadValue, UnknownName
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Task, TokenRow
from deltakit.recipe.text import parse, read_data
from deltakit.tensors.checkpoint import Checkpoint
from tests.engine.merging import tune, weights
from tests.vocabulary.worded import TENSORS, WORDS, base_tensors, numbered, write_worded


@pytest.fixture
def models(tmp_path):
    """A base of five words; a has <x>, b has <x> and <y>, c has no "d"."""
    write_worded(tmp_path / "base", base_tensors(5), numbered(WORDS))
    for seed, (task, words) in enumerate(
        (("a", [*WORDS, "<x>"]), ("b", [*WORDS, "<y>", "<x>"]), ("c", WORDS[:4])), 1
    ):
        tensors = tune(base_tensors(len(words)), seed)
        write_worded(tmp_path / task, tensors, numbered(words), added=words[5:])
    return tmp_path


def merged(folder, tokens, tasks="ab", out="out", limits=None, **recipe):
    made = Recipe(
        **{
            "base": str(folder / "base"),
            "tasks": [
                Task(task, str(folder / task)) if isinstance(task, str) else task for task in tasks
            ],
            "strategy": "task_arithmetic",
            "tokenizer": "union",
            "tokens": {token: TokenRow(**row) for token, row in tokens.items()},
            **recipe,
        }
    )
    plan = plan_recipe(made, limits=limits)
    execute(plan, folder / out)
    return weights(folder / out), plan


@pytest.mark.parametrize("strategy", ["task_arithmetic", "average", "ties", "dare", "tsv"])
def test_a_forced_row_is_the_sources_bit_for_bit_whatever_the_strategy(models, strategy):
    tokens = {
        "<x>": {"source": "b", "force": True},
        "a": {"source": "a", "force": True},
        "b": {"source": "base", "like": "c", "force": True},
        "c": {"source": "a", "like": 5, "force": True},
        "d": {"zero": True, "force": True},
    }
    found, _ = merged(models, tokens, strategy=strategy)
    base, a, b = (weights(models / name) for name in ("base", "a", "b"))
    for name in TENSORS:
        assert torch.equal(found[name][5], b[name][6])
        assert torch.equal(found[name][1], a[name][1])
        assert torch.equal(found[name][2], base[name][3])
        assert torch.equal(found[name][3], a[name][5])
        assert not found[name][4].any()


def test_a_row_that_is_lent_to_the_base_is_what_deltas_are_to(models):
    """The base lacks <x> and is lent a's: a + (a - a) + (b - a)."""
    found, _ = merged(models, {"<x>": {"source": "a"}})
    a, b = (weights(models / name) for name in "ab")
    for name in TENSORS:
        torch.testing.assert_close(found[name][5], a[name][5] + (b[name][6] - a[name][5]))


def test_a_row_that_is_lent_to_a_task_is_its_own(models):
    """Task c has no "d"; with a's row for it: base + .5 (a - base) + .25 (a - base)."""
    tasks = [Task("a", str(models / "a"), 0.5), Task("c", str(models / "c"), 0.25)]
    found, _ = merged(models, {"d": {"source": "a"}}, tasks=tasks, tokenizer="base")
    plain, _ = merged(models, {}, tasks=tasks, tokenizer="base", out="plain")
    base, a = (weights(models / name) for name in ("base", "a"))
    for name in TENSORS:
        expected = base[name][4] + 0.75 * (a[name][4] - base[name][4])
        torch.testing.assert_close(found[name][4], expected)
        expected = base[name][4] + 0.5 * (a[name][4] - base[name][4])
        torch.testing.assert_close(plain[name][4], expected)
        assert torch.equal(found[name][:4], plain[name][:4])
    zero, _ = merged(models, {"d": {"zero": True}}, tasks=tasks, tokenizer="base", out="z")
    for name in TENSORS:
        expected = base[name][4] + 0.5 * (a[name][4] - base[name][4]) - 0.25 * base[name][4]
        torch.testing.assert_close(zero[name][4], expected)


@pytest.mark.parametrize("choice", ["base", "union", "PATH"])
def test_a_token_of_no_model_is_added_with_its_row(models, choice):
    tokens = {"<new>": {"source": "a", "like": "b"}, "<also>": {"zero": True}}
    tokenizer = str(models / "b") if choice == "PATH" else choice
    found, plan = merged(models, tokens, tokenizer=tokenizer)
    table = json.loads((models / "out" / "tokenizer.json").read_text())
    last = {"base": 5, "union": 7, "PATH": 7}[choice]
    assert [entry["content"] for entry in table["added_tokens"]][-2:] == ["<also>", "<new>"]
    assert table["model"]["vocab"]["<also>"] == last
    assert json.loads((models / "out" / "config.json").read_text())["vocab_size"] == last + 2
    a = weights(models / "a")
    for name in TENSORS:
        assert len(found[name]) == last + 2 == plan.vocabulary.rows[1]
        assert not found[name][last].any()
        assert torch.equal(found[name][last + 1], a[name][2])


def test_rows_that_are_not_named_are_as_without(models):
    plain, _ = merged(models, {}, out="plain")
    found, _ = merged(models, {"b": {"source": "a", "force": True}})
    for name, values in plain.items():
        rows = [0, 1, 3, 4, 5, 6] if name in TENSORS else slice(None)
        assert torch.equal(values[rows], found[name][rows])


def test_threads_and_blocks_and_the_written_recipe_give_the_same_bytes(models):
    tokens = {
        "<new>": {"source": "a", "like": "b"},
        "d": {"source": "a"},
        "<a>": {"zero": True},
        "<x>": {"source": "b"},
    }
    merged(models, tokens, "abc", strategy="ties")
    for number, limits in enumerate((Limits(1, 1), Limits(3, 4), Limits(2, 1 << 20))):
        merged(models, tokens, "abc", f"{number}", limits, strategy="ties")
        for file in ("model.safetensors", "tokenizer.json"):
            assert (models / "out" / file).read_bytes() == (
                models / f"{number}" / file
            ).read_bytes()
    recipe = Recipe.read(models / "out" / "deltakit_recipe.json")
    recipe.write(models / "r.yaml")
    assert Recipe.read(models / "r.yaml") == recipe
    execute(plan_recipe(Recipe.read(models / "r.yaml")), models / "again")
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (models / "out" / file).read_bytes() == (models / "again" / file).read_bytes()


def test_a_token_all_models_have_without_force_is_noted(models):
    _, plan = merged(models, {"a": {"source": "b"}, "<x>": {"source": "b"}})
    (note,) = [note for note in plan.notes if note.startswith("tokens:")]
    assert "all models have a, and keep their rows" in note


def test_the_bytes_depend_on_the_row_that_is_lent(models):
    keys = set()
    for number, row in enumerate(({"source": "a"}, {"source": "b"}, {"source": "a", "like": "b"})):
        _, plan = merged(models, {"a": {**row, "force": True}}, out=f"{number}")
        keys.add(key(plan, allow_nonfinite=False))
    assert len(keys) == 3


REFUSED = [
    ({"a": {"source": "aa"}}, UnknownName, "did you mean 'a'"),
    ({"a": {}}, BadValue, "source, or zero: true"),
    ({"a": {"source": "a", "zero": True}}, BadValue, "both"),
    ({"a": {"zero": True, "like": "b"}}, BadValue, "leave like out"),
    ({"": {"zero": True}}, BadValue, "empty text"),
    ({"<new>": {"source": "a"}}, UnknownName, "does not have the token '<new>'"),
    ({"<y>": {"source": "a"}}, UnknownName, "did you mean '<x>'"),
    ({"a": {"source": "a", "like": 6}}, BadValue, "a has no row 6"),
    ({"a": {"source": "base", "like": -1}}, BadValue, "base has no row -1"),
]


@pytest.mark.parametrize(("tokens", "kind", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_means_nothing_is_refused(models, tokens, kind, match):
    with pytest.raises(kind, match=f"(?s).*{match}"):
        merged(models, tokens)
    assert not (models / "out").exists()


def test_a_row_needs_a_tokenizer_and_a_source_that_is_a_model(models, tmp_path):
    with pytest.raises(BadValue, match="tokens goes with a tokenizer"):
        merged(models, {"a": {"zero": True}}, tokenizer=None)
    write_worded(models / "same", tune(base_tensors(5), 7), numbered(WORDS))
    base, same = (Checkpoint.open(models / name) for name in ("base", "same"))
    write_add(tmp_path / "d.safetensors", base, same, task="d")
    tasks = [Task("d", str(tmp_path / "d.safetensors"))]
    with pytest.raises(BadValue, match="delta to the base"):
        merged(models, {"a": {"source": "d"}}, tasks=tasks)


def test_a_task_called_base_is_not_taken_for_the_base(models):
    tasks = [Task("base", str(models / "a"))]
    with pytest.raises(BadValue, match="a task is called base too"):
        merged(models, {"a": {"source": "base", "force": True}}, tasks=tasks)


def test_a_key_that_a_row_does_not_have_is_refused_with_the_nearest(models, tmp_path):
    text = b"tokens: {'<x>': {sorce: a}}"
    with pytest.raises(
        BadFile, match=r"(?s)unknown key 'sorce'.*tokens.<x>.*did you mean 'source'"
    ):
        Recipe.of(parse(text, is_yaml=True))
    (tmp_path / "r.yaml").write_text("tokens: {a: {source: b, like: [1]}}\n")
    with pytest.raises(BadFile, match="like"):
        Recipe.of(read_data(tmp_path / "r.yaml"))
