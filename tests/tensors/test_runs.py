"""Runs of bits are read once, whichever thread needs them first."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from deltakit.tensors.runs import _RUN, CHUNK, Runs, _counts
from tests.kernels import without_kernels

SOON = 30  # seconds after which a test gives up


def test_a_thread_that_needs_what_another_reads_reads_the_run_after_it():
    begun, read_on, starts = Event(), Event(), []

    def read(start: int, stop: int) -> np.ndarray:
        starts.append(start)
        if start == 0:
            begun.set()
            assert read_on.wait(SOON)
        else:
            read_on.set()
        return np.zeros(-(-(stop - start) // 8), dtype=np.uint8)

    runs = Runs(2 * _RUN + 5, 0, read)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(runs.bits, 0, 16)
        assert begun.wait(SOON)
        second = pool.submit(runs.bits, 16, 32)
        assert [len(each.result(SOON)[0]) for each in (first, second)] == [2, 2]
    assert starts == [0, _RUN]
    assert runs.before(2 * _RUN) == 0
    assert starts == [0, _RUN], "both are remembered"


def test_what_one_thread_could_not_read_another_tries():
    begun, fail, starts = Event(), Event(), []

    def read(start: int, stop: int) -> np.ndarray:
        starts.append(start)
        if len(starts) == 1:
            begun.set()
            assert fail.wait(SOON)
            raise OSError("the first to read")
        if start == _RUN:
            fail.set()
        return np.full((stop - start) // 8, 255, dtype=np.uint8)

    runs = Runs(2 * _RUN, 2 * _RUN, read)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(runs.before, 8)
        assert begun.wait(SOON)
        second = pool.submit(runs.before, 8)
        with pytest.raises(OSError, match="the first to read"):
            first.result(SOON)
        assert second.result(SOON) == 8
    assert starts == [0, _RUN, 0]


@pytest.mark.parametrize("numel", [1, 7, 64, 100, CHUNK - 1, CHUNK, 2 * CHUNK + 65, _RUN])
def test_values_are_counted_to_the_end_of_each_chunk_and_not_past_the_last_entry(numel: int):
    bits = np.random.default_rng(0).integers(256, size=-(-numel // 8), dtype=np.uint8)
    bits[-1] |= 0x80
    kept = np.unpackbits(bits, count=numel, bitorder="little")
    ends = [*range(CHUNK, numel, CHUNK), numel]
    expected = [int(kept[:end].sum()) for end in ends]
    assert _counts(bits, numel) == expected
    with without_kernels():
        assert _counts(bits, numel) == expected
