"""Reading a safetensors file by ranges: what is not one is refused, with the path."""

import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltakit.errors import BadFile, InputChanged, NotFound
from deltakit.tensors.files import Files
from deltakit.tensors.reader import PICKLE_SUFFIXES, SafetensorsFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file({"x": torch.arange(64, dtype=torch.float32)}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def refused(path: Path, error: type[Exception] = BadFile) -> str:
    with pytest.raises(error) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_any_range_is_read(path: Path):
    file = SafetensorsFile(path)
    whole = torch.arange(64, dtype=torch.float32).numpy().tobytes()
    for start, stop in [(0, 256), (0, 0), (256, 256), (3, 9), (255, 256)]:
        buffer = bytearray(stop - start)
        file.read("x", start, memoryview(buffer))
        assert bytes(buffer) == whole[start:stop]


@pytest.mark.parametrize(("start", "length"), [(-1, 4), (250, 7), (257, 0)])
def test_a_range_outside_the_tensor_is_never_read(path: Path, start: int, length: int):
    with pytest.raises(IndexError):
        SafetensorsFile(path).read("x", start, memoryview(bytearray(length)))


def test_the_prefix_is_the_first_bytes_verbatim(path: Path):
    file = SafetensorsFile(path)
    assert file.prefix() == path.read_bytes()[: file.header.data_start]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 20, -1])
def test_a_file_cut_anywhere_is_refused(path: Path, length: int):
    data = path.read_bytes()
    path.write_bytes(data[:length])
    refused(path)


def test_bytes_after_the_end_are_refused(path: Path):
    with path.open("ab") as file:
        file.write(b"\0")
    assert "bytes trail" in refused(path)


@pytest.mark.parametrize("length", [0, 25_000_001, 1 << 40, (1 << 64) - 1])
def test_an_impossible_header_length_is_refused(path: Path, length: int):
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert "impossible header length" in refused(path)


def test_a_header_over_the_cap_is_refused_unread(path: Path):
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 30_000_000) + b"{")
        file.truncate(30_000_008)  # sparse
    assert "impossible header length" in refused(path)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_begins_as_a_pickle_does_is_read(path: Path, length: int):
    data = path.read_bytes()
    old = struct.unpack("<Q", data[:8])[0]
    path.write_bytes(struct.pack("<Q", length) + data[8 : 8 + old].ljust(length) + data[8 + old :])
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert list(SafetensorsFile(path).header.infos) == ["x"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_known_by_its_magic(path: Path, zipped: bool):
    torch.save({"x": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    assert "pickle" in refused(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_any_protocol_is_known(path: Path, protocol: int):
    path.write_bytes(pickle.dumps({"x": bytes(100)}, protocol=protocol))
    assert "pickle" in refused(path)


@pytest.mark.parametrize("suffix", sorted(PICKLE_SUFFIXES | {".BIN"}))
def test_a_pickle_is_known_by_its_suffix(path: Path, suffix: str):
    other = path.with_suffix(suffix)
    path.rename(other)
    message = refused(other)
    assert "pickles" in message
    assert "convert" in message


def test_a_missing_file_is_not_found(tmp_path: Path):
    refused(tmp_path / "none.safetensors", NotFound)


def test_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "x.safetensors").mkdir()
    refused(tmp_path / "x.safetensors")


def test_a_fifo_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "x.safetensors")
    assert "regular file" in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused_even_through_a_link(tmp_path: Path, device: str):
    (tmp_path / "x.safetensors").symlink_to(device)
    assert "regular file" in refused(tmp_path / "x.safetensors")
    refused(Path(device))


def test_a_loop_of_links_is_refused(tmp_path: Path):
    (tmp_path / "x.safetensors").symlink_to("x.safetensors")
    refused(tmp_path / "x.safetensors")


def test_a_link_to_a_file_is_followed(path: Path):
    link = path.with_name("link.safetensors")
    link.symlink_to(path)
    assert list(SafetensorsFile(link).header.infos) == ["x"]


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_a_crash(path: Path):
    file = SafetensorsFile(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputChanged, match=r"x\.safetensors"):
        file.read("x", 0, memoryview(bytearray(256)))
    with pytest.raises(InputChanged, match="changed while it was read"):
        file.check_unchanged()


@pytest.mark.parametrize("change", ["grown", "touched", "rewritten"])
def test_a_change_after_opening_is_seen(path: Path, change: str):
    file = SafetensorsFile(path)
    file.check_unchanged()
    if change == "grown":
        os.truncate(path, path.stat().st_size + 1)
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        data = path.read_bytes()
        path.write_bytes(data)
        os.utime(path, ns=(2, 2))  # a coarse clock may not have ticked
    with pytest.raises(InputChanged):
        file.check_unchanged()


def test_a_file_replaced_by_another_is_still_the_one_that_was_opened(path: Path):
    file = SafetensorsFile(path)
    save_file({"x": torch.zeros(64)}, path.with_name("new"))
    path.with_name("new").rename(path)
    file.check_unchanged()
    buffer = bytearray(8)
    file.read("x", 0, memoryview(buffer))
    assert struct.unpack("<2f", buffer) == (0.0, 1.0)


def test_reads_that_come_in_pieces_are_put_together(path: Path, monkeypatch: pytest.MonkeyPatch):
    true = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: true(fd, [to[0][:7]], at))
    buffer = bytearray(256)
    SafetensorsFile(path).read("x", 0, memoryview(buffer))
    assert bytes(buffer) == torch.arange(64, dtype=torch.float32).numpy().tobytes()


class CountingFiles(Files):
    """Counts what is open."""

    def __init__(self) -> None:
        self.opened: set[int] = set()

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self.opened.add(fd)
        return fd

    def close(self, fd: int) -> None:
        super().close(fd)
        self.opened.remove(fd)


def test_the_file_is_closed_once_and_also_when_it_is_refused(path: Path):
    files = CountingFiles()
    file = SafetensorsFile(path, files)
    assert len(files.opened) == 1
    file.close()
    file.close()
    assert not files.opened
    path.write_bytes(b"\0" * 20)
    with pytest.raises(BadFile):
        SafetensorsFile(path, files)
    assert not files.opened


def test_a_closed_file_is_not_read(path: Path):
    file = SafetensorsFile(path)
    file.close()
    with path.open("rb"), pytest.raises(ValueError, match="closed"):
        file.read("x", 0, memoryview(bytearray(4)))
