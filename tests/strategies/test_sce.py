"""What counts as varying between the tasks."""

import pytest
import torch

from deltakit.strategies import Stack, get


@pytest.mark.parametrize("experts", [3, 5, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_that_all_tasks_share_do_not_vary(experts: int, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(experts)
    deltas = torch.randn(1000, generator=draws, dtype=dtype).repeat(experts, 1)
    deltas[0, :10] *= torch.linspace(2.0, 3.0, 10, dtype=dtype)
    merged = get("sce", {"topk": 0.5}).merge(Stack(deltas))
    assert merged.count_nonzero() == 5
    assert not merged[10:].any()
