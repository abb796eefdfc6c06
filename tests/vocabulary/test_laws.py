"""What holds of every merge over different vocabularies, whatever the strategy."""

import json

import pytest
import torch

import deltakit
from deltakit.engine import Limits
from deltakit.importance import ImportanceMap
from deltakit.strategies import names
from tests.engine.merging import tune, weights
from tests.vocabulary.worded import TENSORS, WORDS, base_tensors, moved, numbered, write_worded

IDS = numbered(WORDS)
ORDER = (3, 0, 4, 2, 1)  # permuted: row i is that of word ORDER[i]
PERMUTED = {WORDS[word]: row for row, word in enumerate(ORDER)}
NEED_MAPS = {"fisher", "ewc", "importance_weighted", "klf", "regmean"}


@pytest.fixture
def models(tmp_path):
    base = base_tensors(5)
    write_worded(tmp_path / "base", base, IDS)
    for seed, task in enumerate("ab", 1):
        write_worded(tmp_path / task, tune(base, seed), IDS)
    return tmp_path


def merged(folder, out, strategy="ties", tasks="ab", **options):
    target = folder / out
    deltakit.merge(
        [str(folder / task) for task in tasks],
        strategy,
        target,
        base=str(folder / "base"),
        **options,
    )
    return target


def data(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("strategy", "choice"),
    [*((n, "union") for n in names() if n not in NEED_MAPS), ("ties", "base"), ("ties", "PATH")],
)
def test_models_of_one_tokenizer_merge_to_the_bytes_of_a_plain_merge(models, strategy, choice):
    plain = merged(models, "plain", strategy)
    tokenizer = str(models / "b") if choice == "PATH" else choice
    matched = merged(models, "matched", strategy, tokenizer=tokenizer)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (plain / name).read_bytes() == (matched / name).read_bytes()


@pytest.mark.parametrize("choice", ["base", "union"])
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("average", {"weights": [2.0, 1.0]}),
        ("ties", {"mask": "random:density=0.5"}),
        ("dare", {}),
        ("della", {"settings": {"density": 0.5}}),
        ("tsv", {}),
        ("slerp", {}),
        ("ties", {"settings": {"scope": "global"}, "dtype": "bfloat16"}),
    ],
)
def test_the_order_of_an_expert_s_ids_changes_nothing(models, strategy, options, choice):
    plain = merged(models, "plain", strategy, **options)
    tensors = moved(weights(models / "b"), ORDER)
    (models / "elsewhere").mkdir()
    write_worded(models / "elsewhere" / "b", tensors, PERMUTED)
    found = models / "found"
    deltakit.merge(
        [str(models / "a"), str(models / "elsewhere" / "b")],
        strategy,
        found,
        base=str(models / "base"),
        tokenizer=choice,
        **options,
    )
    assert data(plain) == data(found)


def test_the_order_of_the_output_s_ids_permutes_the_rows_and_nothing_else(models):
    plain = weights(merged(models, "plain"))
    write_worded(models / "other", moved(base_tensors(5), ORDER), PERMUTED)
    found = merged(models, "found", tokenizer=str(models / "other"))
    assert json.loads((found / "config.json").read_text())["eos_token_id"] == PERMUTED[WORDS[0]]
    for name, values in moved(plain, ORDER).items():
        assert torch.equal(weights(found)[name], values)


@pytest.mark.parametrize("choice", ["base", "union"])
def test_padding_never_leaks(tmp_path, choice):
    """Rows above an expert's tokens are wild; the base's own padding stays as it is."""
    base = base_tensors(7)
    write_worded(tmp_path / "base", base, IDS)
    for task, rows, fill in (("a", 8, 1e30), ("b", 5, 0.0)):
        order = [*range(5), *[-1] * (rows - 5)]
        tensors = moved(tune(base, rows), order, fill)
        write_worded(tmp_path / task, tensors, IDS)
    found = weights(merged(tmp_path, "out", "task_arithmetic", tokenizer=choice))
    for name in TENSORS:
        assert found[name].shape == base[name].shape
        assert torch.equal(found[name][5:], base[name][5:])
        assert float(found[name].abs().max()) < 1e3


def with_words(folder, task, words, seed, base=None):
    """Write a fine-tune of the base with words of its own at the end."""
    base = base or base_tensors(5)
    rows = torch.Generator().manual_seed(100 + seed)
    tensors = tune(base, seed)
    for name in TENSORS:
        more = torch.randn(len(words), *tensors[name].shape[1:], generator=rows)
        tensors[name] = torch.cat([tensors[name], more])
    write_worded(folder / task, tensors, numbered([*WORDS, *words]), added=words)
    return tensors


@pytest.mark.parametrize("strategy", ["average", "task_arithmetic", "ties", "dare", "tsv"])
def test_a_token_of_one_expert_keeps_its_row_and_one_of_several_gets_their_mean(tmp_path, strategy):
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    a = with_words(tmp_path, "a", ["<x>", "<y>"], 1)
    b = with_words(tmp_path, "b", ["<y>", "<z>"], 2)
    write_worded(tmp_path / "c", tune(base_tensors(5), 3), IDS)
    out = merged(tmp_path, "out", strategy, "abc", tokenizer="union", scale=2.0)
    found = weights(out)
    for name in TENSORS:
        assert len(found[name]) == 8
        assert torch.equal(found[name][5], a[name][5])
        assert torch.equal(found[name][6], ((a[name][6].double() + b[name][5]) / 2).float())
        assert torch.equal(found[name][7], b[name][6])
    table = json.loads((out / "tokenizer.json").read_text())
    assert table["model"]["vocab"] == numbered([*WORDS, "<x>", "<y>", "<z>"])
    assert [entry["id"] for entry in table["added_tokens"]] == [5, 6, 7]
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 8


@pytest.mark.parametrize(
    ("given", "shares"), [((3.0, 1.0), (0.75, 0.25)), ((1.0, -1.0), (1, 0)), ((0, 0), (0.5, 0.5))]
)
def test_a_new_row_is_a_mean_by_the_positive_weights(tmp_path, given, shares):
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    a, b = (with_words(tmp_path, task, ["<x>"], seed) for seed, task in enumerate("ab", 1))
    out = merged(tmp_path, "out", "task_arithmetic", tokenizer="union", weights=given, scale=1.0)
    for name in TENSORS:
        expected = a[name][5].double() * shares[0] + b[name][5].double() * shares[1]
        assert torch.equal(weights(out)[name][5], expected.float())


def test_base_leaves_new_tokens_out_and_merges_the_rest_as_without_them(tmp_path):
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    with_words(tmp_path, "a", ["<x>"], 1)
    with_words(tmp_path, "b", ["<y>", "<x>"], 2)
    found = merged(tmp_path, "out", tokenizer="base")
    for seed, task in enumerate("ab", 1):
        write_worded(tmp_path / "plain" / task, tune(base_tensors(5), seed), IDS)
    write_worded(tmp_path / "plain" / "base", base_tensors(5), IDS)
    assert data(found) == data(merged(tmp_path / "plain", "out"))


def test_new_tokens_take_the_base_s_padding_first(tmp_path):
    base = base_tensors(6)
    write_worded(tmp_path / "base", base, IDS)
    a = with_words(tmp_path, "a", ["<x>"], 1)
    found = weights(merged(tmp_path, "out", tasks="a", tokenizer="union"))
    for name in TENSORS:
        assert len(found[name]) == 6
        assert torch.equal(found[name][5], a[name][5])


def test_a_token_of_no_model_gets_the_mean_of_the_base_s_tokens(tmp_path):
    base = base_tensors(6)  # the last row is padding
    write_worded(tmp_path / "base", base, IDS)
    write_worded(tmp_path / "a", tune(base, 1), IDS)
    write_worded(tmp_path / "t", base_tensors(6), numbered([*WORDS, "<new>"]))
    found = weights(merged(tmp_path, "out", tasks="a", tokenizer=str(tmp_path / "t")))
    for name in TENSORS:
        assert torch.equal(found[name][5], base[name][:5].double().mean(dim=0).float())


def test_a_token_the_expert_lacks_stays_as_in_the_base(tmp_path):
    base = base_tensors(5)
    write_worded(tmp_path / "base", base, IDS)
    tensors = moved(tune(base, 1), [0, 1, 2, 4])  # no "c"
    write_worded(tmp_path / "a", tensors, {"[unk]": 0, "a": 1, "b": 2, "d": 3})
    found = weights(merged(tmp_path, "out", "task_arithmetic", "a", tokenizer="base"))
    for name in TENSORS:
        assert torch.equal(found[name][3], base[name][3])
        torch.testing.assert_close(found[name][4], tensors[name][3])


def test_threads_blocks_shards_and_the_recipe_give_the_same_bytes(tmp_path):
    base = base_tensors(5, torch.bfloat16)
    write_worded(tmp_path / "base", base, IDS)
    with_words(tmp_path, "a", ["<x>"], 1, base)
    with_words(tmp_path, "b", ["<x>", "<y>"], 2, base)
    out = merged(tmp_path, "out", "dare_ties", tokenizer="union")
    for number, limits in enumerate((Limits(1, 1), Limits(3, 4), Limits(2, 1 << 20))):
        again = merged(tmp_path, f"{number}", "dare_ties", tokenizer="union", limits=limits)
        assert data(out) == data(again)
    sharded = merged(tmp_path, "s", "dare_ties", tokenizer="union", max_shard_size=40)
    assert {n: v.tolist() for n, v in weights(sharded).items()} == {
        n: v.tolist() for n, v in weights(out).items()
    }
    from deltakit.engine import execute
    from deltakit.merging import plan_recipe
    from deltakit.recipe import Recipe

    execute(plan_recipe(Recipe.read(out / "deltakit_recipe.json")), tmp_path / "replayed")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "replayed").iterdir()
    }


@pytest.mark.parametrize("units", ["row", "element"])
def test_scores_of_rows_follow_their_tokens(models, units):
    def maps(folder, order):
        paths = []
        for task in "ab":
            generator = torch.Generator().manual_seed(ord(task))
            scores = {}
            for name, values in base_tensors(5).items():
                shape = values.shape if units == "element" else values.shape[:1]
                scores[name] = torch.rand(shape, generator=generator)
            if task == "b":
                scores = moved(scores, order)
            paths.append(folder / f"{task}-{order[0]}.safetensors")
            ImportanceMap(scores, task=task, units=units).save(paths[-1])
        return paths

    plain = merged(models, "plain", "fisher", importance=maps(models, range(5)))
    write_worded(models / "e" / "b", moved(weights(models / "b"), ORDER), PERMUTED)
    deltakit.merge(
        [str(models / "a"), str(models / "e" / "b")],
        "fisher",
        models / "found",
        base=str(models / "base"),
        tokenizer="base",
        importance=maps(models, ORDER),
    )
    assert data(plain) == data(models / "found")
