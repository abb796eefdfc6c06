"""Agreement of rankings, against values worked out by hand."""

import pytest
import torch

from benchmarks.ranking import Agreement


def units(*scores):
    return {f"u{n}": torch.tensor(s) for n, s in enumerate(scores)}


def test_the_same_order_agrees_wholly_whatever_the_scores():
    found = Agreement.of(units(1.0, 2.0, 3.0, 9.0), units(0.1, 0.2, 0.5, 0.6))
    assert found == Agreement(1.0, 1.0, 1.0)


def test_the_reversed_order_disagrees_wholly():
    assert Agreement.of(units(1.0, 2.0, 3.0), units(3.0, 2.0, 1.0)) == Agreement(-1.0, -1.0, 0.0)


def test_equal_scores_share_their_ranks():
    # ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: rho = 4.5 / sqrt(4.5 * 5); tau-b = 5 / sqrt(5 * 6)
    found = Agreement.of(units(1.0, 1.0, 2.0, 3.0), units(1.0, 2.0, 3.0, 4.0))
    assert found.spearman == pytest.approx(0.948683, abs=1e-6)
    assert found.kendall == pytest.approx(0.912871, abs=1e-6)


def test_the_top_fifth_is_counted_over_all_units():
    one = units(*(float(n) for n in range(10)))
    other = units(*(float(n) for n in (0, 1, 2, 3, 4, 5, 6, 8.5, 7, 9)))
    assert Agreement.of(one, other).top == 0.5
