"""The demo's bookkeeping: its rows, its folder, and scores that are kept."""

import shlex
from concurrent.futures import Future
from statistics import fmean

import pytest

from benchmarks import demo, table
from benchmarks.command import shown
from benchmarks.data import Task
from benchmarks.merges import CONTROLS, MERGES, TASKS, Merge
from benchmarks.scores import Scores
from deltakit.errors import AlreadyThere
from tests.learn import tiny

ALL = (*MERGES, *CONTROLS)


def test_every_strategy_is_a_row_and_klf_has_its_controls():
    used = {words[words.index("--strategy") + 1] for words in (m.words() for m in MERGES)}
    assert used == {"average", "task_arithmetic", "ties", "dare", "sotu", "klf"}
    assert {merge.importance for merge in CONTROLS} == {"constant", "shuffled"}
    assert all("klf" in merge.options for merge in CONTROLS)


def test_every_row_has_a_folder_of_its_own_and_a_label_that_fits():
    assert len({merge.folder for merge in ALL}) == len({merge.label for merge in ALL}) == len(ALL)
    assert all(len(merge.label) < table.WIDTH - 7 * (len(TASKS) + 1) for merge in ALL)


def test_a_row_replaces_the_importance_of_each_task_in_order():
    words = Merge("x, y/z", "--strategy klf", ("a", "b"), "constant").words()
    given = [words[i + 1] for i, word in enumerate(words) if word == "--importance"]
    assert given == ["importance/a-constant.safetensors", "importance/b-constant.safetensors"]
    assert words[words.index("--out") + 1] == "merged/x-y-z"


def test_a_shown_command_is_the_one_that_runs_and_fits_80_columns():
    for merge in ALL:
        text = shown(merge.words())
        assert all(len(line) <= 80 for line in f"$ {text}".splitlines())
        assert shlex.split(text.replace("\\\n", "")) == ["deltakit", *merge.words()]


def test_a_folder_with_other_files_is_refused_and_the_demos_own_is_not(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(AlreadyThere, match="--out"):
        demo.claim(tmp_path)
    demo.claim(tmp_path / "new")
    demo.claim(tmp_path / "new")


class Inline:
    """Runs at once, in this process, and counts."""

    def __init__(self) -> None:
        self.ran = 0

    def submit(self, function, *arguments) -> Future:
        self.ran += 1
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


def test_a_score_is_kept_for_the_same_weights_and_rows_only(tmp_path):
    model = tiny.save(tiny.encoder(), tmp_path / "m")
    same = tiny.save(tiny.encoder(), tmp_path / "same")
    other = tiny.save(tiny.encoder(seed=1), tmp_path / "other")
    task = Task("t", ("place", "person"), "accuracy", (), (("who", 1), ("where", 0)))

    def run(exam: Task) -> int:
        pool = Inline()
        scores = Scores(tmp_path / "scores.json", [exam], pool)
        for label, folder in (("a", model), ("b", same), ("c", other)):
            scores.start(label, folder)
        rows = scores.rows(["a", "b", "c"])
        assert [label for label, _ in rows] == ["a", "b", "c"]
        assert rows[0][1] == rows[1][1]
        return pool.ran

    assert run(task) == 2
    assert run(task) == 0
    assert run(task.examination(1)) == 2


def test_the_table_fits_80_columns_and_shows_the_mean():
    row = dict(zip(TASKS, (91.24, 100.0, 55.5), strict=True))
    text = table.render([("base", row), ("merged", {}), (max(ALL, key=_width).label, row)], TASKS)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.splitlines()[1].split() == [
        "base",
        "91.2",
        "100.0",
        "55.5",
        f"{fmean(row.values()):.1f}",
    ]


def _width(merge: Merge) -> int:
    return len(merge.label)
