"""Tasks: disjoint seeded splits of different texts, and what a score counts."""

import hashlib
from dataclasses import replace

import pytest

from benchmarks import data, packages
from benchmarks.data import Task

QUESTIONS = [
    f"{label}:sub Question {i} {label} ?" for i in range(200) for label in ("HUM", "LOC", "NUM")
]


@pytest.fixture
def trec(tmp_path, monkeypatch) -> Task:
    monkeypatch.setattr(packages, "CACHE", tmp_path)
    text = "\n".join(QUESTIONS + [line.replace("Question", "question  ") for line in QUESTIONS])
    kept = replace(packages.TREC, sha256=hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(packages, "TREC", kept)
    kept.file.parent.mkdir(parents=True)
    kept.file.write_text(text)
    return data.trec()


def test_a_text_is_either_for_training_or_for_testing(trec, monkeypatch):
    texts = [" ".join(text.lower().split()) for text, _ in (*trec.train, *trec.test)]
    assert len(texts) == len(set(texts)) == 600  # each text once, however often it is in the file


def test_a_split_is_the_same_every_time_and_another_with_another_seed(trec):
    assert data.trec() == trec
    assert data.trec(seed=1).test != trec.test


def test_a_label_is_the_index_of_its_option(trec):
    of = {"HUM": "person", "LOC": "location", "NUM": "number"}
    assert all(trec.options[option] == of[text.split()[2]] for text, option in trec.test)


def rows(*options: int) -> tuple[tuple[str, int], ...]:
    return tuple((str(i), option) for i, option in enumerate(options))


def test_accuracy_counts_rows_and_balanced_accuracy_counts_classes():
    test = rows(0, 0, 0, 1)
    plain = Task("t", ("a", "b"), "accuracy", (), test)
    balanced = replace(plain, metric="balanced accuracy")
    assert plain.score([0, 0, 0, 0]) == 75.0
    assert balanced.score([0, 0, 0, 0]) == 50.0
    assert balanced.score([0, 0, 1, 1]) == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_a_score_needs_a_prediction_for_every_row():
    with pytest.raises(ValueError, match="shorter"):
        Task("t", ("a", "b"), "accuracy", (), rows(0, 1)).score([0])


def test_an_examination_holds_the_first_test_rows_and_no_training_rows():
    task = Task("t", ("a", "b"), "accuracy", rows(0, 1), rows(0, 1, 0))
    exam = task.examination(2)
    assert (exam.train, exam.test) == ((), task.test[:2])
    assert exam.digest() == task.examination(2).digest() != task.examination(3).digest()
    assert replace(exam, options=("a", "c")).digest() != exam.digest()
