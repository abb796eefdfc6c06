"""Scores that are too small to multiply by are none."""

import pytest
import torch

from deltakit.strategies import Stack, get

SMALL = [1e-30, 1e-34, 1e-38, 1e-40, 1e-42, 1e-44]


@pytest.mark.parametrize("score", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["importance_weighted", "ewc"])
def test_tasks_that_agree_come_back_however_small_their_scores(
    name: str, score: float, dtype: torch.dtype
) -> None:
    delta = torch.tensor([1.0, -2e-3, 3e-5], dtype=dtype)
    for experts in (1, 2):
        scores = (torch.tensor(score, dtype=dtype),) * experts
        merged = get(name).merge(Stack(delta.repeat(experts, 1), scores=scores))
        torch.testing.assert_close(merged, delta, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", ["importance_weighted", "ewc"])
def test_beside_a_task_that_matters_one_of_such_scores_does_not(name: str) -> None:
    deltas = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    scores = (torch.tensor(1.0), torch.tensor(1e-40))
    assert torch.equal(get(name).merge(Stack(deltas, scores=scores)), deltas[0])


def test_what_a_penalty_shrinks_below_counts_as_none_too() -> None:
    deltas = torch.tensor([[1e-3], [3e-3]])
    scores = (torch.tensor(1e-25), torch.tensor(0.0))
    merged = get("ewc", {"l": 1e-18}).merge(Stack(deltas, scores=scores))
    assert merged.item() == pytest.approx(3e-3, rel=1e-5)  # averaged, 1 to l
