"""Who is counted where tasks have to agree."""

import torch

from deltakit.strategies import Stack, get


def test_a_task_of_weight_zero_is_as_if_left_out() -> None:
    deltas = torch.tensor([[4.0, 1.0, -2.0], [1.0, -1.0, -2.0], [9.0, 2.0, 0.0]])
    for kept, weights in (([0], (1.0, 0.0, 0.0)), ([0, 1], (1.0, 0.5, 0.0))):
        merged = get("consensus").merge(Stack(deltas, weights))
        alone = get("consensus").merge(Stack(deltas[kept], weights[: len(kept)]))
        assert torch.equal(merged, alone)
