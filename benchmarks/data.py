"""Three real classification tasks as text and option: questions, spam, sentiment."""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import packages
from deltakit.learn.models import quiet
from deltakit.learn.option_scoring import OptionScorer, save_options

Row = tuple[Any, int]  # an input, here a text, and the index of its option


@dataclass(frozen=True)
class Task:
    """A classification task: its label texts, and disjoint rows of (text, index of the option)."""

    name: str
    options: tuple[str, ...]
    metric: str
    train: tuple[Row, ...]
    test: tuple[Row, ...]

    def examination(self, rows: int) -> Task:
        """Return the task with only the first `rows` of its (shuffled) test rows, for scoring."""
        return replace(self, train=(), test=self.test[:rows])

    @property
    def answers(self) -> Any:
        """What the scorer chooses from, as it takes it."""
        return self.options

    def open(self, folder: Path, max_tokens: int) -> OptionScorer:
        """Read a model folder into what predicts such tasks."""
        return OptionScorer.open(folder, max_tokens=max_tokens)

    def save(self, scorer: OptionScorer, folder: Path) -> None:
        """Write a model folder of a trained scorer, with the options beside it."""
        with quiet():
            scorer.encoder.save_pretrained(folder)
            scorer.tokenizer.save_pretrained(folder)
        save_options(folder, self.options)

    def digest(self) -> str:
        """Return a hash over all that a score depends on beside the model."""
        found = repr((self.name, self.options, self.metric, self.test))
        return hashlib.sha256(found.encode()).hexdigest()

    def score(self, predicted: list[int]) -> float:
        """Return accuracy, or balanced accuracy (mean recall over the options), in percent."""
        hits: dict[int, list[bool]] = {}
        for (_, option), guess in zip(self.test, predicted, strict=True):
            hits.setdefault(option, []).append(guess == option)
        if self.metric == "accuracy":
            return 100 * sum(map(sum, hits.values())) / len(self.test)
        return 100 * sum(sum(of) / len(of) for of in hits.values()) / len(hits)


# The texts that stand for the labels: part of the model, as the words of a prompt would be.
TREC_OPTIONS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "person",
    "LOC": "location",
    "NUM": "number",
}
SMS_OPTIONS = ("normal personal message", "spam advertisement")
RT_OPTIONS = ("negative movie review", "positive movie review")


def trec(seed: int = 0) -> Task:
    """TREC question types, six classes; the package has no official test part: 500 drawn."""
    rows = []
    keys = list(TREC_OPTIONS)
    for line in packages.TREC.file.read_text(encoding="utf-8").splitlines():
        label, text = line.split(" ", 1)
        rows.append((text, keys.index(label.split(":")[0])))
    return _task("trec", tuple(TREC_OPTIONS.values()), "accuracy", rows, 500, seed)


def sms(seed: int = 0) -> Task:
    """SMS spam, one in seven; scored by balanced accuracy, as "never spam" would reach 87 %."""
    table = csv.DictReader(io.StringIO(packages.SMS.file.read_text(encoding="utf-8"), newline=""))
    rows = [(row["text"], int(row["spam"])) for row in table]
    return _task("sms", SMS_OPTIONS, "balanced accuracy", rows, 1000, seed)


def rt(seed: int = 0) -> Task:
    """Rotten Tomatoes sentence polarity, two classes."""
    text = packages.REVIEWS.file.read_text(encoding="utf-8")
    table = csv.DictReader(io.StringIO(text, newline=""))
    rows = [(row["text"], int(row["label"])) for row in table if row["source"] == "rotten_tomatoes"]
    return _task("rt", RT_OPTIONS, "accuracy", rows, 1000, seed)


TASKS = {"trec": trec, "sms": sms, "rt": rt}


def load(names: Iterable[str] = TASKS) -> list[Task]:
    """Fetch what is missing and return the named tasks, the same rows every time."""
    packages.fetch()
    return [TASKS[name]() for name in names]


def _task(
    name: str, options: tuple[str, ...], metric: str, rows: list[Row], test: int, seed: int
) -> Task:
    # The question file holds each question up to five times: split texts, not lines.
    unique: dict[str, Row] = {}
    for text, option in rows:
        unique.setdefault(" ".join(text.lower().split()), (text.strip(), option))
    shuffled = list(unique.values())
    random.Random(f"{name} {seed}").shuffle(shuffled)
    return Task(name, options, metric, tuple(shuffled[test:]), tuple(shuffled[:test]))
