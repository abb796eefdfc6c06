"""Whatever call the process dies at, the store is as it was before or as it is after."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from deltakit.errors import NotFound
from deltakit.importance import ImportanceMap
from deltakit.store import Store
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.new_file import is_temporary
from tests.failing import FailingFiles
from tests.store.conftest import Project, content, copied
from tests.store.crashing import Died, DyingFiles

State = dict[str, int]
ALL, ALL_BUT_THE_LAST = slice(None), slice(-1)


def state(store: Store) -> State:
    """The bases, and the tasks with the number of their revisions."""
    return {
        **{f"base {b}": 1 for b in store.bases()},
        **{t: len(store.log(t)) for t in store.tasks()},
    }


def attach(store: Store) -> None:
    store.attach_importance("first", ImportanceMap({"layer.bias": torch.tensor(0.5)}, task="first"))


OPERATIONS: dict[str, Callable[[Store, Path], object]] = {
    "add": lambda store, models: store.add("new", "tiny", models / "c"),
    "add lossless": lambda store, models: store.add("new", "tiny", models / "b", lossless=True),
    "add base": lambda store, models: store.add_base("other", models / "c"),
    "attach": lambda store, models: attach(store),
    "remove": lambda store, models: store.remove("first"),
    "gc": lambda store, models: store.gc(0),
}


def crashes(template: Project, place: Path, operation: str) -> Iterator[tuple[Project, DyingFiles]]:
    """Run the operation on fresh copies, dying at call 1, 2, ... until it gets to its end."""
    for die_at in range(1, 1000):
        shutil.rmtree(place, ignore_errors=True)
        (place / "graveyard").mkdir(parents=True)
        project = copied(template, place / "project")
        files = DyingFiles(place / "graveyard", die_at)
        with contextlib.suppress(Died):
            OPERATIONS[operation](Store.open(project.folder, files), project.models)
            assert die_at > 1, "the operation wrote nothing"
            return
        yield project, files


def check_clean(store: Store) -> None:
    """After gc there is nothing but what tasks refer to."""
    store.gc(0)
    assert store.verify(read_data=True) == []
    referred = {
        store.task(t).folder / n for t in store.tasks() for n in store.task(t).manifest.files
    }
    left = {p for p in (store.folder / "tasks").rglob("*") if p.is_file() and p.name != "task.json"}
    assert left == referred
    assert not [path for path in store.folder.rglob("*") if is_temporary(path)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_after_a_crash_the_store_is_old_or_new(template: Project, tmp_path: Path, operation: str):
    before = state(template.store)
    done = copied(template, tmp_path / "done")
    OPERATIONS[operation](done.store, done.models)
    after = state(done.store)

    def check_old_or_new(store: Store) -> None:
        assert state(store) in (before, after), f"died at call {files.die_at}"
        assert store.verify(read_data=True) == []

    for project, files in crashes(template, tmp_path / "crash", operation):
        store = project.store
        check_old_or_new(store)  # killed
        files.lose_power(names=None)  # its data goes, the names stay, as some file systems do
        check_old_or_new(store)
        if files.die_at % 4:  # else left as killed, with all that gc has to collect
            files.lose_power(names=ALL_BUT_THE_LAST)
            check_old_or_new(store)
            files.lose_power(names=ALL)
            check_old_or_new(store)
        check_clean(store)
        if state(store) == before:
            OPERATIONS[operation](store, project.models)  # and can be done again
        assert state(store) == after


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_has_returned_outlives_a_loss_of_power(
    template: Project, tmp_path: Path, operation: str
):
    (tmp_path / "graveyard").mkdir()
    project = copied(template, tmp_path / "project")
    files = DyingFiles(tmp_path / "graveyard")
    OPERATIONS[operation](Store.open(project.folder, files), project.models)
    after = state(project.store)
    files.lose_power(names=ALL)
    assert state(project.store) == after
    assert project.store.verify(read_data=True) == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failing_call_is_raised_and_leaves_the_store_old_or_new(
    template: Project, tmp_path: Path, operation: str, late: bool
):
    before, fail_at = state(template.store), 0
    while True:
        fail_at += 1
        project = copied(template, tmp_path / str(fail_at))
        # Opening the store only asks whether files exist, which is no writing to fail at.
        files = WritesFail(fail_at, late=late)
        with contextlib.suppress(OSError):
            OPERATIONS[operation](Store.open(project.folder, files), project.models)
            break
        store = project.store
        if state(store) != before:
            assert files.calls[fail_at - 1] in ("sync_folder", "close", "rename", "delete")
        assert store.verify(read_data=True) == []
        # Unlike a crash, an error leaves no temporary file, unless deleting it failed too.
        assert not [path for path in store.folder.rglob("*") if is_temporary(path)]
    assert fail_at > 2


class WritesFail(FailingFiles):
    """Fails at writing calls only."""

    def exists(self, path: Path) -> bool:
        return Files.exists(self, path)


def test_a_store_half_made_is_made_by_init_again(tmp_path: Path):
    for die_at in range(1, 100):
        place = tmp_path / str(die_at)
        (place / "graveyard").mkdir(parents=True)
        (place / "project").mkdir()
        files = DyingFiles(place / "graveyard", die_at)
        with contextlib.suppress(Died):
            Store.init(place / "project", files)
            assert die_at > 5
            return
        files.lose_power(names=ALL)
        with contextlib.suppress(NotFound):
            assert Store.open(place / "project").tasks() == []
            continue
        assert Store.init(place / "project").verify(read_data=True) == []


def test_a_restore_that_dies_leaves_nothing_under_the_name_asked_for(
    template: Project, tmp_path: Path
):
    expected = content(template.models / "b")
    for die_at in range(1, 1000):
        place = tmp_path / str(die_at)
        (place / "graveyard").mkdir(parents=True)
        files = DyingFiles(place / "graveyard", die_at)
        with contextlib.suppress(Died):
            Store.open(template.folder, files).restore("whole", place / "out")
            assert content(place / "out") == expected
            return
        files.lose_power(names=ALL)
        assert not (place / "out").exists() or content(place / "out") == expected
        shutil.rmtree(place)


def test_the_crashing_file_system_loses_what_is_not_synced(tmp_path: Path):
    """The watch itself: data and names that were not synced are gone, synced ones stay."""
    (tmp_path / "graveyard").mkdir()
    files = DyingFiles(tmp_path / "graveyard")
    for name, synced in (("kept", True), ("lost", False)):
        fd = files.create(tmp_path / name, 1)
        files.write(fd, b"x", 0)
        if synced:
            files.fsync(fd)
            files.sync_folder(tmp_path)
        LOCAL.close(fd)
    files.rename(tmp_path / "lost", tmp_path / "renamed")
    files.lose_power(names=None)
    assert (tmp_path / "renamed").read_bytes() == b""
    files.lose_power(names=ALL)
    assert content(tmp_path) == {"kept": b"x"}
