"""Indices answer as the same entries' bits do, and are looked through once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltakit.tensors.codec import pack, unpack
from deltakit.tensors.indices import Indices
from deltakit.tensors.runs import CHUNK, Miscounted, Runs
from tests.kernels import without_kernels

NUMEL = 2 * CHUNK + 21


@given(
    kept=st.sets(st.integers(0, NUMEL - 1), max_size=40),
    ends=st.tuples(st.integers(0, NUMEL), st.integers(0, NUMEL)),
    dtype=st.sampled_from(["<u4", "<i4", "<u8", "<i8"]),
    plain=st.booleans(),
)
def test_indices_answer_as_bits_of_the_same_entries_do(kept, ends, dtype, plain):
    stored, (start, stop) = np.array(sorted(kept), dtype=dtype), sorted(ends)
    mask = np.zeros(NUMEL, dtype=np.bool_)
    mask[stored.astype(np.int64)] = True
    indices = Indices(NUMEL, len(kept), lambda first, last: stored[first:last])
    runs = Runs(NUMEL, len(kept), lambda first, last: pack(mask[first:last]))
    if plain:
        with without_kernels():
            bits = indices.bits(start, stop)
    else:
        bits = indices.bits(start, stop)
    assert np.array_equal(unpack(*bits, stop - start), mask[start:stop])
    assert [indices.before(each) for each in ends] == [runs.before(each) for each in ends]


def test_indices_of_a_parameter_larger_than_their_dtype_are_counted():
    stored = np.array([7, 2**31 - 1], dtype="<i4")
    indices = Indices(2**31 + CHUNK, 2, lambda first, last: stored[first:last])
    assert [indices.before(each) for each in (8, 2**31 - 1, 2**31, 2**31 + CHUNK)] == [1, 1, 2, 2]


def test_indices_are_looked_through_once():
    asked = []

    def read(first: int, last: int) -> np.ndarray:
        asked.append((first, last))
        return np.arange(first, last, dtype="<u4")

    indices = Indices(CHUNK + 1, 3, read)
    assert [indices.before(each) for each in (0, CHUNK, CHUNK + 1)] == [0, 3, 3]
    assert asked.count((0, 3)) == 1


@pytest.mark.parametrize("stored", [[3, 3], [4, 3], [0, CHUNK]])
def test_indices_that_do_not_ascend_within_the_parameter_are_miscounted(stored):
    array = np.array(stored, dtype="<u4")
    indices = Indices(CHUNK, 2, lambda first, last: array[first:last])
    for ask in (lambda: indices.before(1), lambda: indices.bits(0, 8)):
        with pytest.raises(Miscounted, match="not ascending"):
            ask()
