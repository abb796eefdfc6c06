"""A base is registered once, checked at every use, and may move but not change."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deltakit.errors import AlreadyThere, NotFound, WrongBase
from deltakit.store import BaseRecord, Store
from deltakit.tensors.files import Files
from tests.models import write_model
from tests.store.conftest import tensors


class CountingFiles(Files):
    """Counts the bytes that are read."""

    nbytes = 0

    def read(self, fd: int, buffer: memoryview, offset: int, where: str = "") -> None:
        self.nbytes += len(buffer)
        super().read(fd, buffer, offset, where)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_model(tmp_path / "base", {**tensors(), "large": torch.zeros(1 << 20)})
    Store.init(tmp_path).add_base("b", tmp_path / "base")
    return Store.open(tmp_path, CountingFiles())


def counted(store: Store) -> int:
    files = store._home.files
    assert isinstance(files, CountingFiles)
    before = files.nbytes
    store.open_base("b")[0].close()
    return files.nbytes - before


def test_a_base_that_looks_as_it_did_is_not_read(store: Store, tmp_path: Path):
    assert counted(store) < 1 << 20
    os.utime(tmp_path / "base" / "model.safetensors", ns=(1, 1))
    assert counted(store) > 1 << 20
    store.add_base("b", tmp_path / "base")
    assert counted(store) < 1 << 20


def test_whoever_opened_the_store_is_told_of_a_base_that_is_hashed_again(
    store: Store, tmp_path: Path
):
    told: list[str | int] = []

    @contextlib.contextmanager
    def hashing(base: BaseRecord) -> Iterator[Callable[[str, int], None]]:
        told.append(base.name)
        yield lambda name, nbytes: told.append(nbytes)
        told.append("end")

    opened = Store.open(tmp_path, hashing=hashing)
    opened.open_base("b")
    assert told == []
    os.utime(tmp_path / "base" / "model.safetensors", ns=(1, 1))
    opened.open_base("b")
    assert (told[0], sum(told[1:-1]), told[-1]) == ("b", opened.base("b").nbytes, "end")
    told.clear()
    seen: list[int] = []
    opened.open_base("b", lambda name, nbytes: seen.append(nbytes))
    assert (told, sum(seen)) == ([], opened.base("b").nbytes)


def test_a_store_copied_without_its_empty_folders_takes_a_base_and_a_task(tmp_path: Path):
    for seed, name in enumerate(("base", "a")):
        write_model(tmp_path / name, {"w": torch.full((3,), float(seed))})
    store = Store.init(tmp_path)
    for folder in ("bases", "tasks", "locks"):
        (store.folder / folder).rmdir()
    assert (store.verify(read_data=True), store.tasks(), store.gc(0).deleted) == ([], [], [])
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", tmp_path / "a")
    assert (list(store.bases()), store.tasks()) == (["b"], ["t"])


def test_a_changed_base_is_refused_by_its_first_tensor(store: Store, tmp_path: Path):
    path = tmp_path / "base" / "model.safetensors"
    data = bytearray(path.read_bytes())
    at = data.rindex(tensors()["layer.weight"].numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(WrongBase, match=r"layer\.weight"):
        store.open_base("b")
    with pytest.raises(WrongBase, match=r"layer\.weight"):
        store.add("t", "b", tmp_path / "base")


def test_a_moved_base_is_pointed_to_again(store: Store, tmp_path: Path):
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(NotFound, match="deltakit base add b NEWPATH"):
        store.open_base("b")
    assert [finding.path for finding in store.verify()] == [tmp_path / "base"]
    store.add_base("b", tmp_path / "moved")
    assert store.base("b").path == tmp_path / "moved"
    assert store.verify(read_data=True) == []


def test_another_model_under_the_name_is_refused(store: Store, tmp_path: Path):
    write_model(tmp_path / "other", {**tensors(), "large": torch.ones(1 << 20)})
    with pytest.raises(AlreadyThere, match=r"(?s)another model.*'large'"):
        store.add_base("b", tmp_path / "other")
    assert store.base("b").path == tmp_path / "base"


def test_resharding_a_base_changes_nothing(store: Store, tmp_path: Path):
    everything = {**tensors(), "large": torch.zeros(1 << 20)}
    write_model(tmp_path / "sharded", everything, shards=3)
    before = store.base("b").fingerprint
    store.add_base("b", tmp_path / "sharded")
    assert store.base("b").fingerprint == before


def test_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_model(tmp_path / "base", tensors())
    monkeypatch.chdir(tmp_path)
    record = Store.init(".").add_base("b", "base")
    assert record.path == tmp_path / "base"
    assert record.table.infos["layer.bias"].shape == (8,)
