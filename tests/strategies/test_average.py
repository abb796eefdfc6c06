import numpy as np
import pytest
import torch

from deltakit.errors import BadValue
from deltakit.strategies import Stack, get
from tests.strategies.stacks import random_deltas


def test_average_equals_the_weighted_mean_of_whole_models() -> None:
    deltas = random_deltas(3, 40, 5)
    base = torch.from_numpy(np.random.default_rng(9).normal(size=(40, 5)).astype(np.float32))
    weights = (1.0, 2.0, 0.5)
    models = [base.numpy() + delta for delta in deltas.numpy()]
    expected = np.average(models, axis=0, weights=weights)
    merged = get("average").merge(Stack(deltas, weights=weights)) + base
    np.testing.assert_allclose(merged.numpy(), expected, rtol=0, atol=2e-6)


def test_average_takes_a_negative_weight_but_no_weights_that_sum_to_zero() -> None:
    get("average").check_weights([2.0, -1.0])
    with pytest.raises(BadValue, match="the weights of an average sum to 0"):
        get("average").check_weights([1.0, -1.0])


def test_average_of_large_values_does_not_overflow() -> None:
    merged = get("average").merge(Stack(torch.full((4, 3), 3e38)))
    torch.testing.assert_close(merged, torch.full((3,), 3e38))
