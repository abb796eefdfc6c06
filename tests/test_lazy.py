"""Lazy deltas: what is computed when a formula asks for it."""

from __future__ import annotations

import pytest
import torch

from deltakit.cut import Cut
from deltakit.lazy import LazyDelta, LazyDeltas


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("threshold", [0.0, 1e-45, 0.1, 2.0, 3e38])
@pytest.mark.parametrize("count", [0, 1, 19])
def test_a_trim_keeps_what_is_above_and_the_first_of_what_is_level(
    threshold: float, count: int, dtype: torch.dtype
) -> None:
    level = float(torch.tensor(threshold, dtype=dtype))  # a threshold is one of the magnitudes
    flat = torch.tensor([level, -level, 3.2e38, -3.2e38, 0.0, -0.0] * 6, dtype=dtype)
    for ties in (0, count, len(flat)):
        out = torch.full_like(flat, 7.0)
        LazyDelta(flat, threshold=level, ties=ties).into(out)
        magnitude = flat.abs()
        first = torch.arange(len(flat)) < ties
        stays = (magnitude > level) | ((magnitude == level) & first)
        assert torch.equal(out, torch.where(stays, flat, torch.zeros_like(flat)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("level", [0.0, 2.0, 3e38])
@pytest.mark.parametrize("last", [-1, 0, 18])
def test_what_is_topped_and_what_is_trimmed_make_up_the_delta(
    level: float, last: int, dtype: torch.dtype
) -> None:
    flat = torch.tensor([level, -level, 3.2e38, -3.2e38, 1.0, -0.0] * 6, dtype=dtype)
    deltas = LazyDeltas.of(flat[None])
    cut = Cut(float(torch.tensor(level, dtype=dtype)), last)
    low, high = deltas.topped([cut], 0).tensor, deltas.trimmed([cut], 0).tensor
    assert torch.equal(low + high, flat[None])
    assert not bool((low * high).any())
    assert not bool(deltas.topped([Cut.none()], 0).tensor.any())


def test_what_is_topped_keeps_no_infinity_from_sight() -> None:
    deltas = LazyDeltas.of(torch.tensor([[1.0, float("inf"), float("nan")]]))
    assert deltas.topped([Cut(2.0, 9)], 0).tensor[0, 1:].isnan().all()
    assert deltas.trimmed([Cut(2.0, 9)], 0).tensor[0, 1:].isfinite().tolist() == [False, False]


def test_a_delta_is_stored_minus_base_then_trimmed_then_dropped() -> None:
    stored, base = torch.tensor([3.0, 1.5, -2.0, 9.0]), torch.ones(4, dtype=torch.bfloat16)
    deltas = LazyDeltas([LazyDelta(stored, base)], (2, 2), "F32")
    assert deltas.tensor.tolist() == [[[2.0, 0.5], [-3.0, 8.0]]]
    trimmed = deltas.trimmed([Cut(2.0, 100)], 100)
    assert trimmed.tensor.tolist() == [[[2.0, 0.0], [-3.0, 8.0]]]
    assert deltas.trimmed([Cut(2.0, 99)], 100).tensor.tolist() == [[[0.0, 0.0], [-3.0, 8.0]]]
    dropped = deltas.dropped([torch.tensor([True, False, True, False])], 0.5)
    assert dropped.tensor.tolist() == [[[4.0, 0.0], [-6.0, 0.0]]]
    assert deltas.squares() == [4.0 + 0.25 + 9.0 + 64.0]


def test_what_a_float64_base_is_subtracted_from_is_computed_in_float64() -> None:
    delta = LazyDelta(torch.ones(3), torch.full((3,), 1e-12, dtype=torch.float64))
    assert delta.tensor.tolist() == [1 - 1e-12] * 3


def test_computed_deltas_are_themselves() -> None:
    deltas = torch.randn(2, 3, 4)
    assert LazyDeltas.of(deltas).tensor is deltas
    assert LazyDeltas.of(deltas).empty().shape == (3, 4)
