"""gc deletes what no task refers to, never what is being written, and nothing else deletes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from deltakit.errors import BadValue
from deltakit.store import Store
from deltakit.store.home import Busy
from deltakit.tensors.files import Files
from deltakit.tensors.new_file import temporary_name
from tests.store.conftest import Project, content


class SlowFiles(Files):
    """Stops before the commit of task.json until it is told to go on."""

    def __init__(self) -> None:
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def rename(self, source: Path, target: Path) -> None:
        if target.name == "task.json":
            self.arrived.set()
            assert self.go_on.wait(60)
        super().rename(source, target)


class AtFirstFile(SlowFiles):
    """Stops before the first data file gets its name: the task's folder holds only temporaries."""

    def rename(self, source: Path, target: Path) -> None:
        if target.name.startswith("delta-"):
            self.arrived.set()
            assert self.go_on.wait(60)
        Files.rename(self, source, target)


def test_gc_during_an_add_leaves_the_task_being_added_alone(project: Project):
    files = AtFirstFile()
    slow = Store.open(project.folder, files)
    adder = threading.Thread(target=lambda: slow.add("new", "tiny", project.models / "c"))
    adder.start()
    try:
        assert files.arrived.wait(60)
        result = project.store.gc(0)
        assert result.busy == ["new"]
        assert result.deleted == []
    finally:
        files.go_on.set()
        adder.join()
    assert "new" in project.store.tasks()
    assert project.store.verify(read_data=True) == []
    assert project.store.gc(0).deleted == []


def test_gc_waits_for_a_commit(project: Project, monkeypatch: pytest.MonkeyPatch):
    """Between the write of a manifest and its rename nothing is collected."""
    monkeypatch.setattr("deltakit.store.home.PATIENCE", 0.05)
    files = SlowFiles()
    slow = Store.open(project.folder, files)
    adder = threading.Thread(target=lambda: slow.add("new", "tiny", project.models / "c"))
    adder.start()
    try:
        assert files.arrived.wait(60)
        with pytest.raises(Busy, match="committing"):
            project.store.gc(0)
        with pytest.raises(Busy, match="'new'"):
            project.store.add("new", "tiny", project.models / "a")
    finally:
        files.go_on.set()
        adder.join()
    assert project.store.verify(read_data=True) == []


def test_the_grace_period_counts_from_the_last_change_of_the_folder(project: Project):
    store = project.store
    path = store.task("first").delta_path
    os.utime(path, (1, 1))
    store.remove("first")
    result = store.gc(60)
    assert (result.deleted, result.waiting) == ([], [path])
    assert result.waiting_nbytes == path.stat().st_size
    os.utime(path.parent, (time.time() - 61,) * 2)
    assert store.gc(60).deleted == [path]
    assert not path.parent.exists()


def test_a_dry_run_tells_and_deletes_nothing(project: Project):
    project.store.remove("first")
    before = content(project.folder)
    planned = project.store.gc(0, dry_run=True)
    assert content(project.folder) == before
    done = project.store.gc(0)
    assert (planned.deleted, planned.nbytes) == (done.deleted, done.nbytes)
    assert len(done.deleted) == 1


def test_left_over_temporaries_are_collected_everywhere(project: Project):
    folder = project.store.folder
    places = [folder / "format.json", folder / "bases" / "tiny.json", folder / "tasks/first/x"]
    left = sorted(temporary_name(place) for place in places)
    for path in left:
        path.write_bytes(b"x")
    assert sorted(project.store.gc(0).deleted) == left
    assert project.store.verify(read_data=True) == []


def test_a_task_with_a_damaged_manifest_loses_nothing(project: Project):
    record = project.store.task("first")
    (record.folder / "task.json").write_text("{")
    assert project.store.gc(0).unreadable == ["first"]
    assert record.delta_path.exists()


def test_files_gc_does_not_know_are_left_alone(project: Project):
    for name in ("notes.txt", "delta-1.safetensors", ".hidden"):
        (project.store.folder / "tasks" / "first" / name).write_text("mine")
    assert project.store.gc(0).deleted == []


def test_files_of_earlier_revisions_stay(project: Project):
    import torch

    from deltakit.importance import ImportanceMap

    for score in (1.0, 2.0):
        scores = {"layer.bias": torch.tensor(score)}
        project.store.attach_importance("first", ImportanceMap(scores, task="x"))
    assert project.store.gc(0).deleted == []
    assert all(record.delta_path.exists() for record in project.store.log("first"))


@pytest.mark.parametrize("grace", [-1.0, float("nan")])
def test_a_grace_period_that_is_none_is_refused(project: Project, grace: float):
    with pytest.raises(BadValue, match="grace"):
        project.store.gc(grace)
