import numpy as np
import pytest
import torch

from deltakit.ops import kept_density
from deltakit.rng import Draws
from deltakit.strategies import Stack, get
from tests.strategies.stacks import GivenMasks, masks, random_deltas, whole_of

TOY = torch.tensor([[1.0, -2.0, 3.0, -4.0]])


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [("inverse", [2, 0, 6, -8]), ("l1", [1.25, 0, 3.75, -5]), ("none", [1, 0, 3, -4])],
)
def test_toy_by_hand(rescale: str, expected: list[float]) -> None:
    stack = GivenMasks(TOY, masks=masks("1011"))
    merged = get("dare", {"p": 0.5, "rescale": rescale}).merge(stack)
    torch.testing.assert_close(
        merged, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6
    )


def drawn(experts: int, shape: tuple[int, ...], density: float) -> np.ndarray:
    """The masks as the generator gives them, without a stack: bool (k, *shape)."""
    count = int(np.prod(shape))
    rows = [Draws(3, f"t{i}", "w").keep(0, count, density) for i in range(experts)]
    return np.stack(rows).reshape(experts, *shape)


@pytest.mark.parametrize("rescale", ["none", "inverse", "l1"])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
def test_dare_equals_a_naive_float32_formula_given_its_masks(p: float, rescale: str) -> None:
    deltas, weights = random_deltas(3, 40, 25, seed=1), (1.0, 0.7, 1.3)
    density = kept_density(p)
    expected = np.zeros((40, 25), dtype=np.float32)
    for weight, delta, mask in zip(
        weights, deltas.numpy(), drawn(3, (40, 25), density), strict=True
    ):
        kept = np.where(mask, delta, np.float32(0))
        if rescale == "inverse":
            kept = kept / np.float32(density)
        if rescale == "l1":
            before, after = (np.abs(x).sum(dtype=np.float64) for x in (delta, kept))
            kept = kept * np.float32(before / after)
        expected = expected + kept * np.float32(weight)
    tasks, whole = ("t0", "t1", "t2"), whole_of(deltas)
    stack = Stack(deltas, weights, tasks, "w", seed=3, whole=whole)
    merged = get("dare", {"p": p, "rescale": rescale}).merge(stack)
    np.testing.assert_array_equal(merged.numpy(), expected)


def test_dare_ties_is_ties_of_the_dropped_deltas() -> None:
    deltas, mask = random_deltas(3, 200), torch.from_numpy(drawn(3, (200,), 0.5))
    merged = get("dare_ties", {"p": 0.5}).merge(GivenMasks(deltas, masks=mask))
    expected = get("ties", {"density": 1}).merge(Stack(deltas * mask / 0.5))
    assert torch.equal(merged, expected)


def test_inverse_keeps_the_mean_and_l1_the_norm() -> None:
    deltas = torch.from_numpy(np.random.default_rng(0).normal(1.0, 1.0, (1, 200_000))).float()
    inverse = get("dare").merge(Stack(deltas))
    # mean 1, variance of an entry (1 - q) / q * E[d^2] = 18: standard error .0095
    assert abs(float(inverse.mean()) - float(deltas.mean())) < 0.05
    l1 = get("dare", {"rescale": "l1"}).merge(Stack(deltas))
    assert float(l1.abs().sum(dtype=torch.float64)) == pytest.approx(
        float(deltas.abs().sum(dtype=torch.float64)), rel=1e-6
    )


def test_another_seed_task_or_tensor_drops_other_entries() -> None:
    deltas = torch.ones(1, 2000)
    dare = get("dare", {"p": 0.5})
    one = dare.merge(Stack(deltas, name="w", tasks=("a",), seed=0))
    for other in (
        Stack(deltas, name="w", tasks=("a",), seed=1),
        Stack(deltas, name="w", tasks=("b",), seed=0),
        Stack(deltas, name="v", tasks=("a",), seed=0),
    ):
        assert 800 < int((dare.merge(other) == one).sum()) < 1200


def test_a_drop_rate_just_below_one_is_no_error() -> None:
    merged = get("dare", {"p": 0.9999999999999999}).merge(Stack(torch.ones(2, 50)))
    assert not merged.count_nonzero()


def test_l1_with_nothing_left_is_zero_and_with_next_to_nothing_is_finite() -> None:
    dare = get("dare", {"p": 0.5, "rescale": "l1"})
    deltas = torch.tensor([[1e-45, 1e5, 0.0]])
    nothing = dare.merge(GivenMasks(deltas, masks=masks("001")))
    assert nothing.tolist() == [0.0, 0.0, 0.0]
    little = dare.merge(GivenMasks(deltas, masks=masks("101")))
    assert little.isfinite().all()
    assert float(little[0]) > 0.0


def test_what_is_read_beforehand() -> None:
    for name in ("dare", "dare_ties", "sotu"):
        assert get(name, {"rescale": "l1"}).looks == "tensor"
        assert get(name, {"rescale": "inverse"}).looks == "nothing"
