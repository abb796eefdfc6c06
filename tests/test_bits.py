"""The compiled loops over bits and bytes do what numpy does; they refuse what does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltakit import kernels
from deltakit.bits import differ, overwrite
from tests.kernels import without_kernels

pytestmark = pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")

COUNTS = [0, 1, 7, 8, 63, 64, 65, 256, 257, 1000]
SIZES = [1, 2, 4, 8]


def entries(count: int, size: int, seed: int) -> np.ndarray:
    """Return entries as bytes, of so few values that many are equal."""
    numbers = np.random.default_rng(seed).integers(0, 3, count).astype(f"u{size}")
    numbers <<= numbers.dtype.type(8 * size - 2)  # in the highest bits: no part of them is lost
    return numbers.view(np.uint8)


@given(st.sampled_from(COUNTS), st.sampled_from(SIZES), st.integers(0, 1000))
def test_entries_that_differ_are_told_and_picked(count, size, seed):
    ours, theirs = entries(count, size, seed), entries(count, size, seed + 1)
    unequal = ours.view(f"u{size}") != theirs.view(f"u{size}")
    values = np.full(count * size, 0xAA, dtype=np.uint8)
    bits = np.full(-(-count // 8), 0xAA, dtype=np.uint8)
    assert differ(ours, theirs, size) == unequal.sum()
    found = differ(ours, theirs, size, values, bits)
    assert found == unequal.sum()
    assert values[: found * size].tobytes() == ours.view(f"u{size}")[unequal].tobytes()
    assert bits.tolist() == np.packbits(unequal, bitorder="little").tolist()


@given(st.sampled_from(COUNTS), st.sampled_from(SIZES), st.integers(0, 15), st.integers(0, 1000))
def test_values_are_put_where_bits_are_set(count, size, skip, seed):
    kept = np.random.default_rng(seed).random(count) < 0.4
    before = np.ones(skip, dtype=np.bool_)  # bits that are skipped stand for nothing
    bits = np.packbits(np.concatenate([before, kept]), bitorder="little")
    out, values = entries(count, size, seed), entries(int(kept.sum()), size, seed + 1)
    expected = out.copy()
    expected.view(f"u{size}")[kept] = values.view(f"u{size}")
    assert overwrite(values, size, bits, skip, out)
    assert out.tobytes() == expected.tobytes()


def test_bits_that_are_not_as_many_as_the_values_are_refused():
    bits, out = np.array([0b111], dtype=np.uint8), np.zeros(4, dtype=np.uint8)
    for most in (2, 4):
        with pytest.raises(ValueError, match=f"3 bits stand for {most} values"):
            overwrite(np.ones(most, dtype=np.uint8), 1, bits, 0, out)
    assert out.tolist() == [1, 1, 1, 0], "nothing is written past what there is"


def test_what_does_not_fit_is_left_alone():
    ours, few = np.zeros(16, dtype=np.uint8), np.zeros(1, dtype=np.uint8)
    assert differ(ours, ours[:8], 2) is None
    assert differ(ours, ours, 3) is None
    assert differ(ours, ours, 2, few) is None
    assert differ(ours, ours, 1, None, few) is None
    assert not overwrite(few, 1, few, 1, ours[:8])
    with without_kernels():
        assert differ(ours, ours, 2) is None
        assert not overwrite(few, 1, few, 0, ours[:8])
