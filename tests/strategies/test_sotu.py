import math

import numpy as np
import pytest
import torch

from deltakit.mask import Mask
from deltakit.strategies import Stack, get
from tests.strategies.stacks import GivenMasks, masks, random_deltas

N = 200_000


def correlated(cosine: float) -> torch.Tensor:
    """Two deltas whose expected cosine is `cosine`: (2, N)."""
    x, y = np.random.default_rng(0).normal(size=(2, N))
    pair = np.stack([x, cosine * x + math.sqrt(1 - cosine**2) * y])
    return torch.from_numpy(pair.astype(np.float32))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a, b) / (a.norm() * b.norm()))


def test_toy_by_hand() -> None:
    deltas = torch.tensor([[2, -4, 6, 0, 1, -3], [-1, 5, 2, -8, 1, 4]], dtype=torch.float32)
    stack = GivenMasks(deltas, masks=masks("101010", "011001"))
    assert (torch.ones(6) + get("sotu").merge(stack)).tolist() == [3, 6, 9, 1, 2, 5]


def test_sotu_equals_a_naive_float32_formula() -> None:
    deltas, weights = random_deltas(3, 500, seed=2), (1.0, 0.7, -1.3)
    expected = np.zeros(500, dtype=np.float32)
    for i, (weight, delta) in enumerate(zip(weights, deltas.numpy(), strict=True)):
        mask = Mask.random(density=1 / 3, seed=4, task=f"t{i}").keep("w", 0, 500)
        expected = expected + np.where(mask, delta, np.float32(0)) * np.float32(weight)
    stack = Stack(deltas, weights=weights, tasks=("t0", "t1", "t2"), name="w", seed=4)
    np.testing.assert_array_equal(get("sotu").merge(stack).numpy(), expected)


def test_masking_when_stored_and_masking_when_merged_keep_the_same_entries() -> None:
    delta = random_deltas(1, 1000)
    merged = get("sotu", {"p": 0.9}).merge(Stack(delta, tasks=("trec",), name="w", seed=7))
    mask = Mask.random(density=0.1, seed=7, task="trec").keep("w", 0, 1000)
    assert torch.equal(merged, delta[0] * torch.from_numpy(mask))


def test_auto_drops_all_but_one_part_in_t() -> None:
    deltas = torch.ones(10, 1000)
    auto, named = (get("sotu", {"p": p}).merge(Stack(deltas)) for p in ("auto", 0.9))
    assert torch.equal(auto, named)


def test_cosine_of_masked_deltas_statistical_case() -> None:
    deltas = correlated(0.5)
    masked = deltas * Stack(deltas, name="w").drawn(0.1)
    assert cosine(masked[0], masked[1]) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("q_a", "q_b"), [(0.5, 0.5), (0.2, 0.8), (1.0, 0.3)])
def test_inner_product_shrinks_by_both_densities_and_cosine_by_their_root(
    q_a: float, q_b: float
) -> None:
    a, b = correlated(0.5)
    stack = Stack(torch.stack([a, b]), name="w")
    masked_a, masked_b = a * stack.drawn(q_a)[0], b * stack.drawn(q_b)[1]
    inner, full = float(torch.dot(masked_a, masked_b)), float(torch.dot(a, b))
    assert inner == pytest.approx(q_a * q_b * full, abs=0.02 * full)
    assert cosine(masked_a, masked_b) == pytest.approx(math.sqrt(q_a * q_b) * 0.5, abs=0.01)


@pytest.mark.parametrize("q", [0.05, 0.2, 0.5, 0.9])
def test_supports_overlap_with_jaccard_q_over_two_minus_q(q: float) -> None:
    a, b = Stack(torch.zeros(2, N), name="w").drawn(q)
    jaccard = float((a & b).sum() / (a | b).sum())
    assert jaccard == pytest.approx(q / (2 - q), abs=0.01)


def test_collisions_at_density_one_in_t() -> None:
    owners = Stack(torch.zeros(10, N), name="w").drawn(0.1).sum(dim=0)
    shares = [float((owners == 0).float().mean()), float((owners == 1).float().mean())]
    assert shares[0] == pytest.approx(0.3487, abs=0.005)
    assert shares[1] == pytest.approx(0.3874, abs=0.005)
    assert 1 - sum(shares) == pytest.approx(0.2639, abs=0.005)


def test_one_owner_is_most_likely_at_density_one_in_t() -> None:
    stack = Stack(torch.zeros(5, N), name="w")
    alone = {q: int((stack.drawn(q).sum(dim=0) == 1).sum()) for q in (0.1, 0.2, 0.3)}
    assert max(alone, key=lambda q: alone[q]) == 0.2


def test_unscaled_sotu_is_the_average_in_expectation_with_the_variance_of_its_masks() -> None:
    values = torch.tensor([[1.0], [-2.0], [4.0], [0.5]])
    q = 1 / 4
    merged = get("sotu").merge(Stack(values.expand(4, N), name="w"))
    variance = q * (1 - q) * float((values**2).sum())
    assert float(merged.mean()) == pytest.approx(float(values.mean()), abs=0.03)
    assert float(merged.var()) == pytest.approx(variance, rel=0.02)


def test_a_higher_drop_rate_keeps_a_subset() -> None:
    stack = Stack(torch.ones(1, 5000), name="w")
    before = torch.ones(5000)
    for p in (0.0, 0.1, 0.5, 0.9, 0.99):
        merged = get("sotu", {"p": p}).merge(stack)
        assert (merged <= before).all()
        before = merged
    assert 0 < int(before.sum()) < 100
