"""The limit: everything is read and written, in every way, and nothing is left."""

import os
from itertools import pairwise

import pytest

from benchmarks import limit


@pytest.mark.parametrize("size", [1, 4096, limit.CHUNK, limit.CHUNK + 1, 5 * limit.CHUNK - 7])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_every_byte_once(tmp_path, size, threads):
    shares = limit._shares([(tmp_path / "a", size), (tmp_path / "b", 3)], threads)
    assert len(shares) == threads
    chunks = [chunk for share in shares for chunk in share]
    for name, whole in (("a", size), ("b", 3)):
        ends = [(start, start + count) for path, start, count in chunks if path.name == name]
        assert ends[0][0] == 0
        assert ends[-1][1] == whole
        assert all(one[1] == two[0] for one, two in pairwise(ends))


def test_reading_reads_and_writing_leaves_nothing(tmp_path):
    (tmp_path / "in").write_bytes(os.urandom(100_000))
    found = limit.measure([tmp_path / "in"], 50_001, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert {"1 threads", "2 threads"} == set(found.reads)
    assert "cached, 1 threads" in found.writes
    assert found.seconds == min(found.reads.values()) + min(found.writes.values())


def test_a_missing_input_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        limit.measure([tmp_path / "none"], 10, tmp_path)
