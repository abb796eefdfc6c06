"""OP, BWT and both FWT, by hand."""

import pytest

from deltakit.errors import BadValue
from deltakit.learn.metrics import Transfer, transfer

ROWS = [[80, 10, 20], [70, 60, 30], [65, 55, 50]]


def test_the_metrics_by_hand():
    found = transfer(ROWS, single=[78, 58, 52])
    assert found.op == pytest.approx(56.666667, abs=1e-6)
    assert found.bwt == pytest.approx(-10, abs=1e-6)
    assert found.fwt_zero_shot == pytest.approx(20, abs=1e-6)
    assert found.fwt_vs_single == pytest.approx(0.666667, abs=1e-6)


def test_one_task_has_no_transfer():
    assert transfer([[90]]) == Transfer(90, None, None, None)


def test_a_run_that_forgets_nothing_has_no_backward_transfer():
    assert transfer([[80, 5], [80, 60]]).bwt == 0


@pytest.mark.parametrize("rows", [[], [[1, 2]], [[1, 2], [3]]])
def test_a_table_that_is_not_square_is_refused(rows):
    with pytest.raises(BadValue, match="not a square table"):
        transfer(rows)


def test_single_scores_must_be_as_many():
    with pytest.raises(BadValue, match="single-task score"):
        transfer(ROWS, single=[1])
