"""The benchmark of capture on a tiny encoder: what is kept, what is compared, what is printed."""

import pytest

from benchmarks import capture_overhead, table
from benchmarks.capture_overhead import BATCHES, RANK, WAYS, Amount
from benchmarks.data import Task
from benchmarks.model import Training
from tests.learn import tiny

ROWS = (("who is this", 0), ("where is this", 1), ("who is a", 0), ("where is a", 1))
TASK = Task("who", ("person", "place"), "accuracy", ROWS, ROWS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tiny.encoder(), tmp_path_factory.mktemp("capture") / "base")


@pytest.fixture
def training():
    return Training(batch=2, max_tokens=8, lr=0.01)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_every_way_keeps_exactly_two_buffers_and_the_table_fits(base, training, capsys):
    amount = Amount(rounds=2, steps=17)
    text, found = capture_overhead.run([TASK, TASK], base, amount, training, "--quick")
    costs = found["costs"]
    ways = [cost["way"] for cost in costs]
    assert ways == ["without", *WAYS, "without", "every step", "without", *RANK]
    for cost in costs:
        copies = 0 if cost["way"] == "without" else 2
        assert cost["buffer_bytes"] == copies * cost["tracked_bytes"]
        assert len(cost["wall"]) == len(cost["cpu"]) == amount.rounds
    assert costs[-1]["tracked_bytes"] == 4 * 8 * (8 + 8) * 2  # A and B of query and of value
    assert set(found["rankings"]) == {"every 2nd", "every 4th", "every 8th"}
    assert max(map(len, text.splitlines())) <= table.WIDTH
    assert capsys.readouterr().out == text + "\n"


def test_a_round_scores_every_nth_of_its_steps(base, training):
    costs = capture_overhead.overhead(TASK, base, Amount(rounds=2), training, WAYS)
    scored = {cost.way: cost.scored for cost in costs}
    assert scored.pop("without") == 0
    assert scored == {w: 1 + 2 * BATCHES // s.get("every", 1) for w, s in WAYS.items()}


def test_a_ranking_is_of_the_same_run_followed_at_fewer_steps(base, training):
    found = capture_overhead.agreement(TASK, base, Amount(steps=1), training)
    for agreement in found.values():  # one step: all of them score it, and only it
        assert (agreement.spearman, agreement.kendall, agreement.top) == (1.0, 1.0, 1.0)
