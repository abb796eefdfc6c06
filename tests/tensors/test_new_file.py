"""New files: bytes arrive the same whichever way they are written."""

from __future__ import annotations

import errno
import itertools
import random
import resource
from pathlib import Path

import numpy as np
import pytest

from deltakit.tensors.files import Files
from deltakit.tensors.new_file import PAGE, NewFile, address


class Noting(Files):
    """The file system, with a note of which bytes were written past the page cache."""

    def __init__(self, direct: str = "works") -> None:
        self.direct, self.past = direct, 0
        self._direct_fd: int | None = None

    def open_direct(self, path: Path) -> int | None:
        if self.direct == "is not had":
            return None
        self._direct_fd = super().open_direct(path)
        return self._direct_fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if fd == self._direct_fd:
            if self.direct == "is refused":
                raise OSError(errno.EINVAL, "alignment")
            if self.direct == "fails":
                raise OSError(errno.ENOSPC, "full")
            assert offset % PAGE == len(data) % PAGE == address(memoryview(data)) % PAGE == 0
            self.past += len(data)
        super().write(fd, data, offset)


def pieces(size: int, seed: int) -> list[tuple[int, int]]:
    """Cut a size into ranges of all lengths, in any order."""
    generator = random.Random(seed)
    cuts = sorted({0, size, *(generator.randrange(size) for _ in range(12)), 65536, 65536 + 131072})
    ranges = list(itertools.pairwise(cuts))
    generator.shuffle(ranges)
    return ranges


def in_place(data: bytes, offset: int) -> memoryview:
    """Return the bytes at an address that agrees with the offset modulo a page."""
    memory = np.empty(len(data) + 2 * PAGE, np.uint8)
    start = (offset - memory.ctypes.data) % PAGE
    view = memoryview(memory)[start : start + len(data)]
    view[:] = data
    return view


@pytest.mark.parametrize("direct", ["works", "is not had", "is refused"])
@pytest.mark.parametrize("seed", range(5))
def test_any_pieces_in_any_order_make_the_file(tmp_path: Path, seed: int, direct: str) -> None:
    content = random.Random(seed).randbytes(900_001)
    files = Noting(direct)
    path = tmp_path / "file"
    with NewFile(path, len(content), files=files) as file:
        for start, stop in pieces(len(content), seed):
            file.write(in_place(content[start:stop], start), start)
    assert path.read_bytes() == content
    if files._direct_fd is None or direct != "works":
        assert files.past == 0
    else:
        assert files.past >= 131072


def test_what_lies_elsewhere_in_a_page_of_memory_is_buffered(tmp_path: Path) -> None:
    files = Noting()
    with NewFile(tmp_path / "file", 1 << 18, files=files) as file:
        file.write(in_place(bytes(1 << 18), 8), 0)
    assert files.past == 0


def test_a_full_disk_is_an_error_and_no_second_attempt(tmp_path: Path) -> None:
    files = Noting("fails")
    file = NewFile(tmp_path / "file", 1 << 18, files=files)
    if files._direct_fd is None:
        file.__exit__(RuntimeError, None, None)
        pytest.skip("no direct writes on this file system")
    with pytest.raises(OSError, match="full"), file:
        file.write(in_place(bytes(1 << 18), 0), 0)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_on_the_disk_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="too large") as planned:
            NewFile(tmp_path / "planned", 1 << 17)
        with (
            pytest.raises(OSError, match="too large") as grown,
            NewFile(tmp_path / "grown") as file,
        ):
            file.write(bytes(1 << 17), 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path(planned.value.filename).parent == tmp_path
    assert grown.value.filename == str(tmp_path / "grown")
    assert not list(tmp_path.iterdir())
