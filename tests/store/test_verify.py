"""Every byte of every file counts: what is changed is found, and the tensor named."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from deltakit.delta import Delta
from deltakit.errors import BadFile
from deltakit.importance import ImportanceMap
from deltakit.store import Store
from deltakit.store.manifest import BaseManifest, StoreManifest, TaskManifest, decode
from deltakit.tensors.files import Files
from deltakit.tensors.reader import SafetensorsFile
from tests.store.conftest import Project, content


@pytest.fixture
def full(project: Project) -> Project:
    scores = ImportanceMap({"layer.bias": torch.tensor(1.0)}, task="x")
    project.store.attach_importance("first", scores)
    return project


def stored_files(project: Project) -> list[Path]:
    files = (path for path in sorted(project.store.folder.rglob("*")) if path.is_file())
    return [path for path in files if path.parent.name != "locks"]


def test_a_sound_store_has_no_findings(full: Project):
    assert full.store.verify() == []
    assert full.store.verify(read_data=True) == []


def found(project: Project, read_data: bool) -> bool:
    """Whether the damage is noticed: by verify, or when the store refuses to open."""
    try:
        return project.store.verify(read_data) != []
    except BadFile:
        return True


def test_a_flip_anywhere_in_any_file_is_found(full: Project):
    for path in stored_files(full):
        good = path.read_bytes()
        for at in sorted({*range(0, len(good), max(1, len(good) // 40)), len(good) - 1}):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            assert found(full, read_data=True), f"{path.name}, byte {at} of {len(good)}"
        path.write_bytes(good)
    assert not found(full, read_data=True)


class Locked(Files):
    """Every look into one folder is forbidden, as to a user who may not search it."""

    def __init__(self, folder: Path, listed: bool) -> None:
        self.folder, self.listed = folder, listed

    def _check(self, path: Path) -> None:
        if self.folder in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def exists(self, path: Path) -> bool:
        self._check(path)
        return super().exists(path)

    def open(self, path: Path) -> int:
        self._check(path)
        return super().open(path)

    def list(self, folder: Path) -> list[Path]:
        if not self.listed:
            self._check(folder / "any")
        return super().list(folder)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("read_data", [False, True])
def test_a_task_that_may_not_be_read_is_not_sound(full: Project, read_data: bool, listed: bool):
    folder = full.store.task("first").folder
    store = Store.open(full.folder, Locked(folder, listed))
    findings = store.verify(read_data)
    assert {finding.path for finding in findings} >= {folder / "task.json"}
    assert all(folder in (one.path, one.path.parent) for one in findings), (
        "the others are looked at"
    )
    assert {one.fact.rpartition(": ")[2] for one in findings} == {"Permission denied"}
    assert store.bytes_to_verify() < full.store.bytes_to_verify()
    with pytest.raises(PermissionError):
        store.tasks()
    before = content(full.folder)
    assert store.gc(0).unreadable == ["first"]
    assert content(full.folder) == before


@pytest.mark.parametrize("damage", ["truncated", "emptied", "extended", "deleted"])
def test_a_file_of_another_size_is_found_without_reading_data(full: Project, damage: str):
    for path in stored_files(full):
        good = path.read_bytes()
        if damage == "deleted":
            if path.suffix == ".json":
                continue  # a task without its manifest is a task that was removed
            path.unlink()
        else:
            bad = {"truncated": good[:-1], "emptied": b"", "extended": good + b"\0"}[damage]
            path.write_bytes(bad)
        assert found(full, read_data=False), path.name
        path.write_bytes(good)


def test_the_bad_tensor_is_named_and_no_other(full: Project):
    for path in stored_files(full):
        if path.suffix != ".safetensors":
            continue
        file = SafetensorsFile(path)
        for name, info in file.header.infos.items():
            if not info.nbytes:
                continue
            good, at = path.read_bytes(), file.header.offsets[name]
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            findings = full.store.verify(read_data=True)
            assert {f.tensor for f in findings} == {None, name}
            assert {f.path for f in findings} == {path}
            path.write_bytes(good[:at])
            assert name in {f.tensor for f in full.store.verify(read_data=True)}
            path.write_bytes(good)
        file.close()


def test_a_header_that_lies_is_found(full: Project):
    """The data is whole and the header well formed, but two parameters have changed names."""
    path = full.store.task("first").delta_path
    good = path.read_bytes()
    assert good.count(b'"embed.weight":') == 1
    path.write_bytes(good.replace(b'"embed.weight":', b'"embed.weighs":'))
    findings = full.store.verify(read_data=True)
    assert "embed.weight" in {f.tensor for f in findings}


def test_a_changed_base_is_found_by_reading_data(template: Project, tmp_path: Path):
    import shutil

    shutil.copytree(template.models / "base", tmp_path / "base")
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    state = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # bit rot leaves no trace in the time
    assert store.verify() == []
    assert "differ" in store.verify(read_data=True)[0].fact


def test_files_no_task_refers_to_are_hashed_too(full: Project):
    path = full.store.task("first").delta_path
    full.store.remove("first")
    assert full.store.verify(read_data=True) == []
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert [f.path for f in full.store.verify(read_data=True)] == [path]
    assert full.store.verify() == []


def test_a_folder_that_gc_removes_meanwhile_is_no_fault(full: Project):
    class Removing(Files):
        def list(self, folder: Path) -> list[Path]:
            if folder.name == "left":
                folder.rmdir()
            return super().list(folder)

    (full.store.folder / "tasks" / "left").mkdir()
    assert Store.open(full.store.folder, Removing()).verify(read_data=True) == []
    assert not (full.store.folder / "tasks" / "left").exists()


def test_verify_changes_nothing(full: Project):
    path = full.store.task("first").delta_path
    path.write_bytes(path.read_bytes() + b"\0")
    before = content(full.folder)
    assert full.store.verify(read_data=True)
    assert content(full.folder) == before


KINDS = {"format.json": StoreManifest, "tiny.json": BaseManifest, "task.json": TaskManifest}


@pytest.mark.parametrize("name", KINDS)
def test_a_newer_format_is_refused_before_anything_else(full: Project, name: str):
    path = next(full.store.folder.rglob(name))
    data = {**json.loads(path.read_text()), "format": 2, "what_is_this": [1]}
    with pytest.raises(BadFile, match="upgrade") as error:
        decode(json.dumps(data).encode(), KINDS[name], str(path))
    assert str(path) in str(error.value)
    path.write_text(json.dumps(data))
    assert found(full, read_data=False)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": "1"}', "[" * 10**5]
)
def test_nonsense_is_a_bad_file(full: Project, name: str, text: str):
    path = next(full.store.folder.rglob(name))
    with pytest.raises(BadFile):
        decode(text.encode(), KINDS[name], str(path))


def test_fields_that_do_not_belong_are_refused(full: Project):
    path = full.store.folder / "tasks" / "first" / "task.json"
    data = {**json.loads(path.read_text()), "extra": 1}
    with pytest.raises(BadFile, match="extra"):
        decode(json.dumps(data).encode(), TaskManifest, str(path))


def test_a_manifest_cannot_point_out_of_its_folder(full: Project):
    path = full.store.folder / "tasks" / "first" / "task.json"
    name = Delta.open(full.store.task("first").delta_path).file.path.name
    path.write_text(path.read_text().replace(name, "../../../" + name))
    with pytest.raises(BadFile):
        full.store.task("first")
