import torch

from deltakit.strategies import Stack, get
from tests.strategies.stacks import random_deltas


def test_deltas_are_added_and_the_scale_comes_once_at_the_end() -> None:
    deltas = torch.tensor([[1.0, 2.0], [3.0, -2.0]])
    merged = 0.3 * get("task_arithmetic").merge(Stack(deltas))
    torch.testing.assert_close(merged, torch.tensor([1.2, 0.0]), rtol=0, atol=1e-6)


def test_a_negative_weight_takes_a_task_away() -> None:
    deltas = random_deltas(2, 30)
    both = get("task_arithmetic").merge(Stack(deltas))
    stack = Stack(torch.stack([both, deltas[1]]), weights=(1.0, -1.0))
    assert torch.equal(get("task_arithmetic").merge(stack), deltas[0])


def test_equal_opposite_terms_cancel_exactly_for_any_weight() -> None:
    delta = torch.linspace(0.1, 7.3, 1000)
    stack = Stack(torch.stack([delta, -delta]), weights=(0.3, 0.3))
    assert not get("task_arithmetic").merge(stack).count_nonzero()
