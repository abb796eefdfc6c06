"""The streaming writer: the same tensors give the same bytes, in whatever order they come."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deltakit.errors import AlreadyThere, NotFound
from deltakit.tensors.header import ALIGNMENT, TensorInfo
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.writer import SafetensorsWriter
from tests.failing import FailingFiles

TENSORS = {
    "b": torch.arange(5000, dtype=torch.float32),
    "a": torch.arange(3000, dtype=torch.int16),
    "c": torch.arange(7, dtype=torch.uint8),
    "d": torch.arange(9, dtype=torch.float64),
    "e": torch.zeros(0, 3),
}
INFOS = {
    "a": TensorInfo("I16", (3000,)),
    "b": TensorInfo("F32", (5000,)),
    "c": TensorInfo("U8", (7,)),
    "d": TensorInfo("F64", (9,)),
    "e": TensorInfo("F32", (0, 3)),
}


def pieces() -> list[tuple[str, int, bytes]]:
    found = []
    for name, tensor in TENSORS.items():
        raw = tensor.numpy().tobytes()
        found += [(name, at, raw[at : at + 999]) for at in range(0, len(raw), 999)]
    return found


def write(path: Path, order: list[tuple[str, int, bytes]], threads: int = 1) -> bytes:
    with SafetensorsWriter(path, INFOS) as writer, ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(writer.write, *piece) for piece in order]:
            done.result()
    return path.read_bytes()


def test_any_order_from_any_thread_gives_the_same_bytes(tmp_path: Path):
    expected = write(tmp_path / "0", pieces())
    for seed in (1, 2, 3):
        order = pieces()
        random.Random(seed).shuffle(order)
        assert write(tmp_path / f"{seed}", order, threads=8) == expected
    for name, tensor in load_file(tmp_path / "1").items():
        assert torch.equal(tensor, TENSORS[name])


def test_the_order_in_which_tensors_are_named_does_not_matter(tmp_path: Path):
    for path, infos in [("1", INFOS), ("2", dict(reversed(INFOS.items())))]:
        with SafetensorsWriter(tmp_path / path, infos):
            pass
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_each_tensor_is_aligned_and_the_data_begins_on_a_page(tmp_path: Path):
    write(tmp_path / "x", pieces())
    header = SafetensorsFile(tmp_path / "x").header
    assert header.data_start % ALIGNMENT == 0
    assert all(header.offsets[name] % TENSORS[name].itemsize == 0 for name in TENSORS)


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (6, 2), (8, 0), (0, 8)])
def test_a_write_outside_its_tensor_is_refused(tmp_path: Path, start: int, length: int):
    with (
        pytest.raises(IndexError, match="'c'"),
        SafetensorsWriter(tmp_path / "x", INFOS) as writer,
    ):
        writer.write("c", start, bytes(length))
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_at_whatever_call_it_fails(tmp_path: Path):
    number, failed = 0, True
    while failed:
        number += 1
        files = FailingFiles(number)
        try:
            with SafetensorsWriter(tmp_path / "x", {"c": INFOS["c"]}, files=files) as writer:
                writer.write("c", 0, bytes(7))
            failed = False
        except OSError:
            if files.calls[-1] != "sync_folder":
                assert not list(tmp_path.iterdir())
            for path in tmp_path.iterdir():
                path.unlink()
    assert number > 7


def test_an_existing_file_is_refused_or_replaced(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(AlreadyThere):
        SafetensorsWriter(tmp_path / "x", INFOS)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
    with SafetensorsWriter(tmp_path / "x", INFOS, replace=True):
        pass
    assert set(SafetensorsFile(tmp_path / "x").header.infos) == set(INFOS)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(NotFound, match="folder"):
        SafetensorsWriter(tmp_path / "none" / "x", INFOS)


def test_a_file_without_tensors_is_read_back(tmp_path: Path):
    with SafetensorsWriter(tmp_path / "x", {}, {"k": "v"}):
        pass
    assert load_file(tmp_path / "x") == {}
    assert SafetensorsFile(tmp_path / "x").header.metadata == {"k": "v"}
