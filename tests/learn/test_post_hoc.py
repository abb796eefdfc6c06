"""Importance measured without training, against loops written out."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltakit.errors import BadFile, BadValue, DeltakitError
from deltakit.learn.examples import read_examples
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.objective import objective
from deltakit.learn.post_hoc import post_hoc
from deltakit.tensors.checkpoint import Checkpoint
from tests.learn import tiny

ROWS = [
    {"text": text, "label": label}
    for text, label in zip(tiny.TEXTS, ["person", "place", "good", "bad"], strict=True)
]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data.jsonl")


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tiny.encoder(), tmp_path / "m")


@pytest.mark.parametrize("score", ["first", "second", "mixed"])
def test_post_hoc_equals_capture_of_a_training_that_changes_nothing(folder, data, score):
    found = post_hoc(folder, data, task="t", kind=f"klf-{score}", batch=2)
    rows = read_examples(data)
    live, loss = objective(folder, rows, source="data")
    capture = KlfImportance.attach(live, score)
    for batch in (rows[:2], rows[2:]):
        loss(batch).backward()
        capture.step()
        live.zero_grad()
    assert dict(found) == dict(capture.map("t"))
    assert max(found.values()) > 0
    assert found.score == score


@pytest.mark.parametrize("kind", [tiny.encoder, tiny.classifier, tiny.causal])
def test_fisher_is_the_mean_square_of_each_examples_own_gradient(tmp_path, kind):
    folder = tiny.save(kind(), tmp_path / "m")
    labels = ["bad", "good"] * 2
    data = write(
        tmp_path / "data.jsonl",
        [{"text": t, "label": label} for t, label in zip(tiny.TEXTS, labels, strict=True)],
    )
    found = post_hoc(folder, data, task="t", kind="fisher")
    rows = read_examples(data)
    live, loss = objective(folder, rows, source="data")
    squares = {name: torch.zeros_like(p) for name, p in live.named_parameters()}
    for row in rows:
        live.zero_grad()
        loss([row]).backward()
        for name, p in live.named_parameters():
            if p.grad is not None:
                squares[name] += p.grad.square() / len(rows)
    assert found.keys() == squares.keys()
    for name, square in squares.items():
        assert found[name].item() == pytest.approx(square.mean().item(), rel=1e-5), name
    assert found.score == "fisher"


def test_a_map_says_what_it_was_measured_on(folder, data):
    found = post_hoc(folder, data, task="t", base=folder, batch=3)
    assert found.base == Checkpoint.open(folder).fingerprint()
    assert found.provenance["data"] == "data.jsonl"
    assert found.provenance["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (found.provenance["examples"], found.provenance["steps"]) == ("4", "2")


def test_the_model_folder_is_not_changed(folder, data):
    before = Checkpoint.open(folder).fingerprint()
    post_hoc(folder, data, task="t")
    assert Checkpoint.open(folder).fingerprint() == before


@pytest.mark.parametrize("kind", ["klf-first", "fisher"])
def test_a_model_whose_gradients_are_all_nan_gives_no_map(folder, data, kind):
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DeltakitError):
        post_hoc(folder, data, task="t", kind=kind)


def test_fisher_skips_and_counts_an_example_that_is_not_finite(tmp_path, data):
    model = tiny.encoder()
    with torch.no_grad():  # only the fourth text has this word
        model.embeddings.word_embeddings.weight[tiny.WORDS.index("bad")] = float("inf")
    folder = tiny.save(model, tmp_path / "m")
    options = ["person", "place", "good", "red"]
    data = write(data, [*ROWS[:3], {"text": "a bad film", "label": "red"}])
    found = post_hoc(folder, data, task="t", kind="fisher", options=options)
    assert found.provenance["examples_skipped_nonfinite"] == "1"
    less = post_hoc(folder, write(data, ROWS[:3]), task="t", kind="fisher", options=options)
    assert dict(found) == dict(less)


@pytest.mark.parametrize("kind", [tiny.encoder, tiny.masked, tiny.causal, tiny.classifier])
def test_names_are_those_of_the_checkpoint(tmp_path, kind):
    folder = tiny.save(kind(), tmp_path / "m")
    data = write(tmp_path / "d", [{"text": "who ", "label": x} for x in ("good", "bad")])
    found = post_hoc(folder, data, task="t")
    assert set(found) == set(Checkpoint.open(folder).infos)
    assert max(found.values()) > 0


def test_a_weight_made_up_on_reading_is_left_out_when_unused_and_refused_when_used(folder, data):
    file = folder / "model.safetensors"
    weights = load_file(file)
    unused, used = "pooler.dense.weight", "embeddings.LayerNorm.weight"
    save_file({k: v for k, v in weights.items() if k != unused}, file, metadata={"format": "pt"})
    assert unused not in post_hoc(folder, data, task="t")
    save_file({k: v for k, v in weights.items() if k != used}, file, metadata={"format": "pt"})
    with pytest.raises(BadFile, match="lacks weights") as caught:
        post_hoc(folder, data, task="t", kind="fisher")
    assert caught.value.got == used


def test_a_bad_line_stops_before_the_model_is_read(tmp_path, data):
    with data.open("a") as file:
        file.write("oops\n")
    with pytest.raises(BadFile, match="line 5"):
        post_hoc(tmp_path / "no model here", data, task="t")


def test_wrong_settings_are_refused(folder, data):
    with pytest.raises(BadValue, match='did you mean "klf-first"'):
        post_hoc(folder, data, task="t", kind="klf-frist")
    with pytest.raises(BadValue, match="a batch holds one example or more"):
        post_hoc(folder, data, task="t", batch=0)


def test_fisher_by_row_and_by_element_average_to_that_of_the_tensor(folder, data):
    found = {
        kind: post_hoc(folder, data, task="t", kind=kind)
        for kind in ("fisher", "fisher-row", "fisher-element", "klf-first", "klf-first-row")
    }
    for name, whole in found.pop("klf-first").items():
        torch.testing.assert_close(found["klf-first-row"][name].mean(), whole)
    assert found.pop("klf-first-row").units == "row"
    rows = read_examples(data)
    live, loss = objective(folder, rows, source="data")
    total = {name: torch.zeros_like(p) for name, p in live.named_parameters()}
    for row in rows:
        loss([row]).backward()
        for name, p in live.named_parameters():
            total[name] += 0 if p.grad is None else p.grad**2
        live.zero_grad()
    for name, whole in found["fisher"].items():
        element = found["fisher-element"][name]
        torch.testing.assert_close(element.mean(), whole)
        torch.testing.assert_close(
            found["fisher-row"][name], element.reshape(len(element), -1).mean(dim=1)
        )
        if name in total:
            torch.testing.assert_close(element, total[name] / len(rows))
    assert {m.units for m in found.values()} == {"tensor", "row", "element"}


@pytest.mark.parametrize(("window", "a"), [("all", 0.75), ("2", 0.5), (5, 0.8)])
def test_a_window_sets_the_decays_and_all_is_the_number_of_batches(folder, data, window, a):
    found = post_hoc(folder, data, task="t", batch=1, window=window)
    by_hand = post_hoc(folder, data, task="t", batch=1, a1=a, a2=a)
    assert dict(found) == dict(by_hand)
    assert found.provenance["a1"] == found.provenance["a2"] == repr(a)


def test_a_fisher_map_has_no_window(folder, data):
    with pytest.raises(BadValue, match="has no window"):
        post_hoc(folder, data, task="t", kind="fisher-row", window="all")
