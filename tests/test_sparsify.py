"""What the kernels store of a delta is what torch computes, entry by entry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltakit import kernels
from deltakit.drawn import Drawn
from deltakit.dtypes import torch_dtype
from deltakit.lazy import LazyDelta
from deltakit.rng import Draws
from tests.kernels import without_kernels, without_loops_by_hand

pytestmark = pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")

STRETCH = 1 << 16
COUNTS = [1, 7, 64, 255, 256, 257, 4096 + 3, STRETCH + 300]
KINDS = ["plain", "trimmed", "between", "drawn", "kept"]
SPECIAL = [0.0, -0.0, 2.0**-133, -(2.0**-149), 1 + 2.0**-12, 3.0, 65504.0, 65500.0]


def numbers(count: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers on a grid, many of them level, and some that halves round or lose."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(-4, 5, (count,), generator=generator) * 0.25
    odd = torch.rand(count, generator=generator) < 0.1
    which = torch.randint(len(SPECIAL), (count,), generator=generator)
    return torch.where(odd, torch.tensor(SPECIAL)[which], found).to(dtype)


def delta_of(kind: str, count: int, seed: int, dtype: torch.dtype) -> LazyDelta:
    base = numbers(count, seed, dtype)
    delta = LazyDelta(numbers(count, seed + 1, dtype), base)
    if kind == "trimmed":
        return replace(delta, threshold=0.5, ties=count // 2)
    if kind == "between":
        return replace(delta, threshold=0.25, ties=count // 3, highest=1.0, top_ties=count // 2)
    if kind == "drawn":
        return replace(delta, kept=Draws(seed, "t", "w").mask(3, 3 + count, 0.3))
    if kind == "kept":
        return replace(delta, kept=numbers(count, seed + 2, torch.float32) > 0)
    return delta


@given(
    kind=st.sampled_from(KINDS),
    count=st.sampled_from(COUNTS),
    model=st.sampled_from(["F32", "BF16", "F16"]),
    dtype=st.sampled_from(["F32", "BF16", "F16"]),
    seed=st.integers(0, 1 << 20),
    by_hand=st.booleans(),
)
def test_the_kernels_store_what_torch_computes(kind, count, model, dtype, seed, by_hand):
    delta, kept = delta_of(kind, count, seed, torch_dtype(model)), torch.ones(count, dtype=bool)
    if delta.kept is not None:
        kept = delta.kept.tensor if isinstance(delta.kept, Drawn) else delta.kept
    with without_kernels():
        left, whole = delta.tensor, LazyDelta(delta.stored, delta.base).tensor
    values = whole.to(torch_dtype(dtype))
    stays = (left != 0) & (values != 0)
    expected = {"staying": values[stays], "kept": values[kept], "every": torch.zeros_like(values)}
    expected["every"][stays] = values[stays]
    for whose, wanted in expected.items():
        room = np.full(count * wanted.element_size() + 1, 0xAA, dtype=np.uint8)
        bits = np.full(-(-count // 8), 0xAA, dtype=np.uint8)
        if by_hand:
            found = kernels.sparsify(delta, dtype, whose, room, bits)
        else:
            with without_loops_by_hand():
                found = kernels.sparsify(delta, dtype, whose, room, bits)
        assert found is not None
        assert (found.staying, found.kept) == (int(stays.sum()), int(kept.sum()))
        assert found.highest == float(whole.abs().max())
        assert found.rounded == bool(((values.float() != whole) & (left != 0)).any())
        assert bits.tolist() == np.packbits(stays.numpy(), bitorder="little").tolist()
        nbytes = wanted.numel() * wanted.element_size()
        assert room[:nbytes].tobytes() == wanted.view(torch.uint8).numpy().tobytes()
        assert room[-1] == 0xAA, "nothing is written past the room there is for all"
    assert kernels.sparsify(delta, dtype) == found, "looking writes nothing and finds the same"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_told_wherever_it_is(bad):
    for place in (0, 255, 256, STRETCH, STRETCH + 1):
        values = torch.zeros(STRETCH + 2)
        values[place] = bad
        found = kernels.sparsify(LazyDelta(values, torch.ones(STRETCH + 2)), "BF16")
        assert found is not None
        assert not found.highest < float("inf")


def test_too_little_room_and_dtypes_that_are_not_taken_are_left_alone():
    delta = LazyDelta(torch.ones(16), torch.zeros(16))
    assert kernels.sparsify(delta, "F32", "every", np.zeros(4 * 16 - 1, np.uint8)) is None
    assert kernels.sparsify(delta, "F32", "every", None, np.zeros(1, np.uint8)) is None
    assert kernels.sparsify(delta, "F64") is None
    wide = LazyDelta(torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64))
    assert kernels.sparsify(wide, "F32") is None
