"""Fine-tuning a tiny encoder for real: what is written, reused, learned and left alone."""

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.data import Task
from benchmarks.model import Training, evaluate, read_record, train
from deltakit.importance import ImportanceMap
from deltakit.learn.option_scoring import read_options
from deltakit.tensors.checkpoint import Checkpoint
from tests.learn import tiny

ROWS = (("who is this", 0), ("where is this", 1), ("who is a", 0), ("where is a", 1))
TASK = Task("who", ("person", "place"), "accuracy", ROWS, ROWS)
TRAINING = Training(steps=30, batch=4, max_tokens=8, lr=0.01)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    base = tiny.save(tiny.encoder(), folder / "base")
    train(TASK, TRAINING, base, folder / "who", folder / "maps" / "who.safetensors")
    return folder


def test_training_writes_a_model_folder_its_options_and_its_importance(trained):
    base, tuned = Checkpoint.open(trained / "base"), Checkpoint.open(trained / "who")
    assert base.infos == tuned.infos  # names, shapes, dtypes: a delta can be taken
    assert (trained / "who" / "tokenizer.json").exists()
    assert read_options(trained / "who") == ["person", "place"]
    found = ImportanceMap.open(trained / "maps" / "who.safetensors")
    assert set(found) == set(base.infos)
    assert (found.task, found.base) == ("who", base.fingerprint())
    assert found.provenance["steps"] == "30"


def test_training_learns_its_task(trained):
    assert evaluate(trained / "who", [TASK], max_tokens=8) == {"who": 100.0}
    losses = read_record(trained / "who")["losses"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_embeddings_of_words_the_task_does_not_have_are_left_bit_for_bit(trained):
    words = "embeddings.word_embeddings.weight"
    base, tuned = (load_file(trained / f / "model.safetensors")[words] for f in ("base", "who"))
    for word in ("film", "red", "blue"):
        row = tiny.WORDS.index(word)
        assert torch.equal(base[row], tuned[row])
    assert not torch.equal(base[tiny.WORDS.index("who")], tuned[tiny.WORDS.index("who")])


def test_the_same_training_is_reused_and_another_is_not(trained, capsys):
    again = (trained / "base", trained / "who", trained / "maps" / "who.safetensors")
    before = read_record(trained / "who")
    train(TASK, TRAINING, *again)
    assert "reusing" in capsys.readouterr().out
    assert read_record(trained / "who") == before
    other = trained / "other"
    for seed in (0, 1):
        train(TASK, Training(steps=2, batch=4, seed=seed), again[0], other, trained / "map")
        assert json.loads((other / "training.json").read_text())["settings"]["seed"] == seed


def test_the_rate_rises_and_then_falls_to_almost_nothing():
    rates = [Training(steps=100).rate(step) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] <= 0.1
    assert 0 < rates[-1] <= 0.02
