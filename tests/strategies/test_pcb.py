"""PCB where there is nothing to compete for."""

import pytest
import torch

from deltakit.strategies import Stack, get


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_a_parameter_of_no_entries_stays_one(shape: tuple[int, ...], scope: str) -> None:
    assert get("pcb", {"scope": scope}).merge(Stack(torch.zeros(2, *shape))).shape == shape
