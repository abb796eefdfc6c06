"""Each figure on cases that were computed by hand."""

import math

import pytest
import torch

from deltakit.inspect import compare
from deltakit.tensors.source import MemoryTensors
from tests.inspect.sources import Given, given, zeros

A, B = given(4, -1, 3, 0.5, -2), given(-2, 5, 1, -4, -3)


def test_two_tasks_of_five_entries():
    report = compare(zeros(w=5), {"a": A, "b": B})
    pair, together = report.model.pairs[0], report.model.together
    assert pair.cosine == pytest.approx(-0.147098, abs=1e-6)
    assert pair.sign_conflict == together.sign_conflict == 0.6
    assert (pair.jaccard, pair.overlap) == (1.0, 1.0)
    # |2|+|4|+|4|+|-3.5|+|-5| of 10.5 + 15
    assert pair.weighted_conflict == pytest.approx(1 - 18.5 / 25.5)
    assert together.weighted_conflict == pytest.approx(1 - 18.5 / 25.5)
    # 4 + 16 + 16 + 12.25 + 25 of 30.25 + 55
    assert pair.interference == pytest.approx(73.25 / 85.25 - 1)
    assert together.interference == pytest.approx(73.25 / 85.25 - 1)
    assert together.collisions == [0, 0, 5]
    a = report.model.tasks[0]
    assert (a.changed, a.density, a.norm, a.max) == (5, 1.0, 5.5, 4.0)
    assert a.rms == pytest.approx(5.5 / math.sqrt(5))
    assert a.mean == pytest.approx(0.9)


def test_partly_shared_supports():
    report = compare(
        zeros(w=8), {"a": given(1, 1, 1, 1, 0, 0, 0, 0), "b": given(*(0,) * 3, *(-2,) * 3, 0, 0)}
    )
    pair, together = report.model.pairs[0], report.model.together
    assert pair.jaccard == 1 / 6
    assert pair.overlap == 1 / 3
    assert pair.sign_conflict == 1.0
    assert pair.weighted_conflict == pytest.approx(1 - 8 / 10)
    assert together.collisions == [2, 5, 1]
    assert together.owned == [0.25, 0.625, 0.125]


def test_orthogonal_tasks_do_not_interfere():
    report = compare(zeros(w=2), {"a": given(3, 0), "b": given(0, 4)})
    assert report.model.pairs[0].cosine == 0.0
    assert report.model.pairs[0].null_band == 0.0
    assert report.model.together.interference == 0.0
    assert report.model.together.sign_conflict is None  # they share no entry


@pytest.mark.parametrize("count", [2, 3, 6])
def test_identical_tasks_interfere_by_their_number_less_one(count: int):
    report = compare(zeros(w=5), {f"t{i}": A for i in range(count)})
    assert report.model.together.interference == pytest.approx(count - 1, rel=1e-12)
    assert report.model.together.sign_conflict == 0.0
    assert report.model.together.weighted_conflict == 0.0
    assert all(pair.cosine == 1.0 for pair in report.model.pairs)


def test_opposite_tasks_cancel_wholly():
    pair = compare(zeros(w=2), {"a": given(1, -2), "b": given(-1, 2)}).model.pairs[0]
    assert (pair.cosine, pair.sign_conflict, pair.weighted_conflict) == (-1.0, 1.0, 1.0)
    assert pair.interference == -1.0


def test_three_tasks_of_which_two_agree():
    report = compare(zeros(w=2), {"a": given(1, 1), "b": given(1, 0), "c": given(-1, 0)})
    assert report.model.together.sign_conflict == 1.0  # of the one entry that more than one changes
    assert report.model.together.collisions == [0, 1, 0, 1]
    assert report.model.together.weighted_conflict == pytest.approx(1 - 2 / 4)


def test_the_band_of_equal_magnitudes_is_two_over_the_root_of_the_dimension():
    signs = torch.tensor([1.0, -1.0]).repeat(50)
    report = compare(zeros(w=100), {"a": Given({"w": signs}), "b": Given({"w": signs.roll(1)})})
    assert report.model.pairs[0].null_band == pytest.approx(2 / math.sqrt(100))


def test_random_signs_stay_in_the_band():
    generator = torch.Generator().manual_seed(7)
    heavy = torch.randn(20_000, generator=generator) ** 3  # few entries carry the norm
    base, inside = zeros(w=20_000), 0
    for _ in range(100):
        signs = torch.randint(0, 2, (20_000,), generator=generator) * 2.0 - 1.0
        tasks = {"a": Given({"w": heavy}), "b": Given({"w": heavy * signs})}
        pair = compare(base, tasks, threads=1).model.pairs[0]
        assert pair.cosine is not None
        assert pair.null_band is not None
        inside += abs(pair.cosine) < pair.null_band
    assert 88 <= inside <= 100  # two standard deviations hold 95 in 100


def test_a_zero_delta_has_no_cosine():
    report = compare(zeros(w=5), {"a": A, "none": Given({})})
    pair, zero = report.model.pairs[0], report.model.tasks[1]
    assert (pair.cosine, pair.null_band, pair.overlap) == (None, None, None)
    assert pair.sign_conflict is None
    assert (pair.jaccard, pair.interference, pair.weighted_conflict) == (0.0, 0.0, 0.0)
    assert (zero.density, zero.norm, zero.max) == (0.0, 0.0, 0.0)


def test_nothing_but_zero_deltas_is_no_division():
    report = compare(zeros(w=5), {"a": Given({}), "b": Given({})})
    pair, together = report.model.pairs[0], report.model.together
    assert pair.jaccard is pair.weighted_conflict is pair.interference is None
    assert together.interference is together.weighted_conflict is None
    assert together.collisions == [5, 0, 0]


def test_the_relative_norm_is_to_the_base_of_the_same_parameters():
    base = MemoryTensors({"w": torch.tensor([3.0, 4.0]), "v": torch.tensor([12.0])})
    report = compare(base, {"a": given(1, 0)})
    assert report.model.tasks[0].relative_norm == pytest.approx(1 / 13)
    by_name = {group.name: group.tasks[0].relative_norm for group in report.parameters}
    assert by_name == {"w": pytest.approx(0.2), "v": 0.0}


def test_a_base_of_zeros_gives_no_relative_norm():
    assert compare(zeros(w=5), {"a": A}).model.tasks[0].relative_norm is None


def test_one_task_has_no_pairs():
    report = compare(zeros(w=5), {"a": A})
    assert report.model.pairs == []
    assert report.model.together.collisions == [0, 5]
    assert report.model.together.sign_conflict is None
