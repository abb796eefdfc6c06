import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltakit import ops

DELTAS = torch.tensor([[4.0, -1.0, 0.0, 2.0], [2.0, 5.0, 0.0, -2.0]])
ONES = (1.0, 1.0)


def test_weighted_sum_adds_in_the_order_given_and_rounds_each_product() -> None:
    values = np.random.default_rng(0).normal(size=(5, 1000)).astype(np.float32)
    weights = (0.1, 0.7, 1.3, 0.9, 0.3)
    expected = np.zeros(1000, dtype=np.float32)
    for value, weight in zip(values, weights, strict=True):
        expected = expected + value * np.float32(weight)
    summed = ops.weighted_sum(torch.from_numpy(values), weights)
    np.testing.assert_array_equal(summed.numpy(), expected)


def test_weighted_sum_cancels_equal_opposite_terms_exactly() -> None:
    delta = torch.linspace(-3.1, 7.7, 999)
    assert not ops.weighted_sum(torch.stack([delta, -delta]), (0.3, 0.3)).count_nonzero()


def test_a_weight_too_few_or_too_many_is_no_silent_truncation() -> None:
    for weights in ((1.0,), (1.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match=r"zip|a weight goes with each row"):
            ops.weighted_sum(DELTAS, weights)


def test_elect_sign_is_the_sign_of_the_weighted_sum() -> None:
    assert ops.elect_sign(DELTAS, ONES).tolist() == [1, 1, 0, 0]
    assert ops.elect_sign(DELTAS, (9.0, 1.0)).tolist() == [1, -1, 0, 1]


def test_count_sign_counts_experts_and_not_magnitudes() -> None:
    deltas = torch.tensor([[9.0, 9.0, 1.0], [-1.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
    assert ops.count_sign(deltas).tolist() == [-1, 0, 1]


def test_a_zero_agrees_with_nothing_and_nobody_where_no_sign_was_elected() -> None:
    agrees = ops.agreeing(DELTAS, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert agrees.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]


def test_the_smallest_delta_still_has_a_sign() -> None:
    tiny = torch.tensor([[1e-45], [-1e-45]])
    assert ops.agreeing(tiny, torch.tensor([-1.0])).tolist() == [[0], [1]]


def test_disjoint_mean_divides_by_those_that_agree() -> None:
    elected = ops.elect_sign(DELTAS, ONES)
    assert ops.disjoint_sum(DELTAS, (1.0, 3.0), elected).tolist() == [10.0, 15.0, 0.0, 0.0]
    assert ops.disjoint_mean(DELTAS, (1.0, 3.0), elected).tolist() == [2.5, 5.0, 0.0, 0.0]
    assert ops.disjoint_mean(DELTAS, (1.0, 3.0), elected, ONES).tolist() == [5.0, 15.0, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 4)], ids=str)
def test_shapes_and_dtypes_are_kept_and_inputs_left_alone(shape: tuple[int, ...]) -> None:
    deltas = torch.full((2, *shape), 0.5, dtype=torch.float64)
    elected = ops.elect_sign(deltas, ONES)
    for result in (
        ops.weighted_sum(deltas, ONES),
        ops.count_sign(deltas),
        ops.disjoint_sum(deltas, ONES, elected),
        ops.disjoint_mean(deltas, ONES, elected),
    ):
        assert (result.shape, result.dtype) == (shape, torch.float64)
    assert (deltas == 0.5).all()
    assert elected.all()


@given(numel=st.integers(1, 10**9), density=st.floats(0, 1, exclude_min=True))
def test_kept_count_is_the_nearest_number_and_at_least_one(numel: int, density: float) -> None:
    count = ops.kept_count(numel, density)
    assert 1 <= count <= numel
    assert count == 1 or abs(count - density * numel) <= 0.5
    assert ops.kept_count(0, density) == 0


@pytest.mark.parametrize(("p", "q"), [(0.9, 0.1), (0.7, 0.3), (0.8, 0.2), (0.0, 1.0), (0, 1.0)])
def test_kept_density_is_the_decimal_complement(p: float, q: float) -> None:
    assert ops.kept_density(p) == q


@given(p=st.floats(0, 1, exclude_max=True))
def test_kept_density_of_a_drop_rate_below_one_is_above_zero(p: float) -> None:
    assert 0.0 < ops.kept_density(p) <= 1.0
    assert ops.kept_density(p) == pytest.approx(1 - p, abs=1e-15)
