"""Which models are matched, by what, and what is refused before anything is written."""

import pytest
import torch

import deltakit
from deltakit.diff import write_add, write_replace
from deltakit.engine import execute
from deltakit.engine.resume import key
from deltakit.errors import BadFile, BadValue, NotFound, ShapeMismatch
from deltakit.merging import plan_merge
from deltakit.tensors.checkpoint import Checkpoint
from tests.engine.merging import tune, weights
from tests.lora.folders import write_folder
from tests.models import write_model
from tests.vocabulary.worded import (
    TENSORS,
    WIDTH,
    WORDS,
    base_tensors,
    numbered,
    write_tokenizer,
    write_worded,
)

IDS = numbered(WORDS)
LONGER = numbered([*WORDS, "<x>"])


@pytest.fixture
def models(tmp_path):
    """A base of five rows, and a task of six."""
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    tensors = tune(base_tensors(6), 1)
    write_worded(tmp_path / "a", tensors, LONGER, added=["<x>"])
    return tmp_path


def planned(folder, *tasks, tokenizer=None, strategy="task_arithmetic"):
    paths = [str(folder / task) for task in tasks]
    return plan_merge(paths, strategy, base=str(folder / "base"), tokenizer=tokenizer)


def test_without_the_option_both_sizes_are_named_and_the_remedy(models):
    with pytest.raises(ShapeMismatch) as caught:
        planned(models, "a")
    for text in ("task 'a'", "5 rows, [5, 3]", "6 rows, [6, 3]", "--tokenizer base", "union"):
        assert text in str(caught.value)


def test_padded_embeddings_are_refused_without_the_option(tmp_path):
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    write_worded(tmp_path / "a", tune(base_tensors(8), 1), IDS)
    with pytest.raises(ShapeMismatch, match=r"(.|\n)*8 rows"):
        planned(tmp_path, "a")
    assert planned(tmp_path, "a", tokenizer="base").vocabulary.rows == (5, 5)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ({**IDS, "d": 3, "c": 4}, "'d', as in "),
        ({"[unk]": 0, "a": 1, "b": 2, "e": 3, "d": 4}, "'c', as in "),
    ],
)
def test_equal_sizes_with_other_tokens_are_refused_without_the_option(tmp_path, ids, words):
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    write_worded(tmp_path / "a", tune(base_tensors(5), 1), ids)
    with pytest.raises(BadValue, match="contradict each other") as caught:
        planned(tmp_path, "a")
    assert words in str(caught.value)
    planned(tmp_path, "a", tokenizer="union")


def test_a_token_that_moved_into_padding_is_refused_and_a_new_one_there_is_not(tmp_path):
    write_worded(tmp_path / "base", base_tensors(7), IDS)
    for task, ids in (("x", {**IDS, "<x>": 5}), ("y", {**IDS, "<y>": 5}), ("d", {**IDS, "d": 6})):
        write_worded(tmp_path / task, tune(base_tensors(7), 1), ids)
    planned(tmp_path, "x")
    with pytest.raises(BadValue, match="contradict"):
        planned(tmp_path, "x", "y")  # of one another, not of the base
    with pytest.raises(BadValue, match="contradict"):
        planned(tmp_path, "d")


def test_a_tokenizer_that_cannot_be_read_is_noted_without_the_option(tmp_path):
    write_worded(tmp_path / "base", base_tensors(5), IDS)
    write_worded(tmp_path / "a", tune(base_tensors(5), 1), IDS)
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    assert planned(tmp_path, "a").notes == [
        "a: its tokens were not compared: not a tokenizer: no model, or no list of added tokens"
    ]
    with pytest.raises(BadFile, match="not a tokenizer"):
        planned(tmp_path, "a", tokenizer="base")


def test_the_plan_tells_tokens_rows_and_tensors(models):
    found = planned(models, "a", tokenizer="union")
    assert (found.vocabulary.tokens, found.vocabulary.rows) == (6, (5, 6))
    assert tuple(found.vocabulary.tensors) == TENSORS
    assert found.notes == [
        "a: 1 tokens the base lacks, as '<x>'",
        "1 rows the base lacks: each the mean of the tasks that have the token",
    ]
    found = planned(models, "a", tokenizer="base")
    assert found.vocabulary.rows == (5, 5)
    assert "1 of these left out" in found.notes[0]


def test_a_stored_delta_and_an_adapter_are_in_the_base_s_vocabulary(models):
    base, tuned = base_tensors(5), tune(base_tensors(5), 2)
    sources = (
        Checkpoint.open(models / "base"),
        Checkpoint.open(write_model(models / "b", tuned, config={})),
    )
    write_add(models / "add.safetensors", *sources, task="b", dtype="F32")
    write_replace(models / "replace.safetensors", *sources, task="b")
    write_folder(
        models / "lora",
        {
            "model.embed_tokens.lora_embedding_A": torch.ones(2, 5),
            "model.embed_tokens.lora_embedding_B": torch.ones(WIDTH, 2),
        },
        r=2,
        lora_alpha=2,
        target_modules=["embed_tokens"],
    )
    for name, expected in [
        ("add.safetensors", tuned),
        ("replace.safetensors", tuned),
        ("lora", {**base, TENSORS[0]: base[TENSORS[0]] + 2.0}),
    ]:
        out = models / f"out-{name}"
        execute(planned(models, "a", name, tokenizer="union"), out)
        a = weights(models / "a")
        for tensor in TENSORS:
            found = weights(out)[tensor]
            delta = (a[tensor][:5] - base[tensor]) + (expected[tensor] - base[tensor])
            torch.testing.assert_close(found[:5], base[tensor] + delta)
            assert torch.equal(found[5], a[tensor][5])


def test_a_replace_delta_of_another_vocabulary_names_the_way(models):
    sources = Checkpoint.open(models / "base"), Checkpoint.open(models / "a")
    write_replace(models / "r.safetensors", *sources, task="a")
    with pytest.raises(ShapeMismatch, match=r"(.|\n)*model folders with their tokenizers"):
        planned(models, "r.safetensors", tokenizer="union")


def test_without_a_tokenizer_beside_it_a_model_of_the_base_s_size_has_the_base_s(models):
    write_model(models / "b", tune(base_tensors(5), 2), config={})
    assert "b: no tokenizer beside it; its tokens are taken for the base's" in (
        planned(models, "b", tokenizer="union").notes
    )
    write_model(models / "c", tune(base_tensors(6), 2), config={})
    with pytest.raises(NotFound, match="no tokenizer is beside"):
        planned(models, "c", tokenizer="union")
    (models / "base" / "tokenizer.json").unlink()
    with pytest.raises(NotFound, match="no tokenizer is beside"):
        planned(models, "b", tokenizer="union")


@pytest.mark.parametrize("choice", ["base", "union"])
def test_a_token_beyond_its_model_s_rows_is_noted_and_none_of_its_tokens(models, choice):
    write_worded(models / "b", tune(base_tensors(5), 2), numbered([*WORDS, "<pad>"]))
    found = planned(models, "b", tokenizer=choice)
    assert (found.vocabulary.tokens, found.vocabulary.rows) == (5, (5, 5))
    assert found.notes == ["b: 1 tokens without a row in it, as '<pad>'"]


def test_another_width_is_another_head_and_refused(models):
    tensors = tune(base_tensors(6), 1)
    tensors["lm_head.weight"] = torch.zeros(6, WIDTH + 1)
    write_worded(models / "w", tensors, LONGER)
    with pytest.raises(ShapeMismatch, match=r"'lm_head.weight' has another shape"):
        planned(models, "w", tokenizer="union")


def test_what_has_no_embedding_or_one_of_integers_is_refused(models):
    for name, tensors in [
        ("none", {"layer.0.weight": torch.ones(3)}),
        ("codes", {**base_tensors(5), "lm_head.weight": torch.ones(5, 3, dtype=torch.int8)}),
    ]:
        write_model(models / name, tensors, config={"vocab_size": 5})
        write_tokenizer(models / name, IDS)
        with pytest.raises(BadValue, match=r"embedding is known|cannot be matched"):
            plan_merge([str(models / "a")], "ties", base=str(models / name), tokenizer="base")


def test_a_merge_is_not_resumed_where_a_tokenizer_changed(models):
    before = key(planned(models, "a", tokenizer="union"), False)
    assert before == key(planned(models, "a", tokenizer="union"), False)
    assert before != key(planned(models, "a", tokenizer="base"), False)
    write_tokenizer(models / "a", numbered(["<x>", *WORDS]), added=["<x>"])
    assert before != key(planned(models, "a", tokenizer="union"), False)


def test_only_new_rows_are_something_applied(tmp_path):
    base = base_tensors(5)
    write_worded(tmp_path / "base", base, IDS)
    tensors = {n: torch.cat([v, v[:1]]) if n in TENSORS else v for n, v in base.items()}
    write_worded(tmp_path / "a", tensors, LONGER, added=["<x>"])
    execute(planned(tmp_path, "a", tokenizer="union"), tmp_path / "out")
    assert torch.equal(weights(tmp_path / "out")["lm_head.bias"], tensors["lm_head.bias"])
    with pytest.raises(BadValue, match="nothing was applied"):
        execute(planned(tmp_path, "a", tokenizer="base"), tmp_path / "same")


def test_a_tied_head_is_written_once(tmp_path):
    base = {n: v for n, v in base_tensors(5).items() if n != "lm_head.bias"}
    for task, rows, ids in (("base", 5, IDS), ("a", 6, LONGER)):
        tensors = {
            **base,
            TENSORS[0]: torch.cat([base[TENSORS[0]] + rows, torch.ones(1, 3)])[:rows],
        }
        tensors["lm_head.weight"] = tensors[TENSORS[0]].clone()
        config = {"vocab_size": rows, "tie_word_embeddings": True}
        write_model(tmp_path / task, tensors, config=config)
        write_tokenizer(tmp_path / task, ids)
    execute(planned(tmp_path, "a", tokenizer="union"), tmp_path / "out")
    found = weights(tmp_path / "out")
    assert sorted(found) == ["layer.0.weight", TENSORS[0]]
    assert torch.equal(found[TENSORS[0]][5], torch.ones(3))


def test_the_front_door_takes_the_option(models):
    report = deltakit.merge(
        [str(models / "a")],
        "average",
        models / "out",
        base=str(models / "base"),
        tokenizer="union",
    )
    assert report.changed == 4
