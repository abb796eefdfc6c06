"""A task while it is added: its files first, each complete and durable, then its manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from deltakit.errors import AlreadyThere
from deltakit.store.content import keep
from deltakit.store.home import Home
from deltakit.store.layout import Layout, left_out
from deltakit.store.manifest import FORMAT, Revision, StoredFile, TaskManifest
from deltakit.store.names import check_distinct, check_name
from deltakit.store.tasks import TaskRecord
from deltakit.tensors.checkpoint import Checkpoint


@contextlib.contextmanager
def new_task(home: Home, task: str) -> Iterator[NewTask]:
    """Give a task to fill and commit, locked; a name that is taken or impossible is refused."""
    check_name(task, "task")
    _refuse_existing(home, task)
    with home.task_lock(task):
        _refuse_existing(home, task)
        with _folder(home, task) as folder:
            yield NewTask(home, task, folder)


class NewTask:
    """What was written of a task so far; `names` are its files by kind."""

    def __init__(self, home: Home, task: str, folder: Path) -> None:
        self._home, self._task, self._folder = home, task, folder
        self._stored: dict[str, StoredFile] = {}
        self.names: dict[str, str] = {}
        self.provenance: dict[str, str] = {}

    def keep(self, kind: str, write: Callable[[Path], object]) -> Path:
        """Have `write(path)` write a file of the task, and return the path it then has."""
        name, file = keep(self._folder, kind, write, self._home.files)
        self.names[kind], self._stored[name] = name, file
        return self._folder / name

    def keep_layout(self, source: Checkpoint, folder: Path) -> None:
        """Keep all that makes up the original folder beside its values."""
        layout = Layout.of(source, folder, self._home.files)
        self.keep("checkpoint", lambda path: layout.save(path, self._task, self._home.files))
        lost = left_out(source, folder)
        if lost:
            self.provenance["left_out"] = ", ".join(printable(Path(name)) for name in lost)

    def commit(self, revision: Revision) -> TaskRecord:
        """Make the task what `revision` says: from here on it is there."""
        home = self._home
        manifest = TaskManifest(
            format=FORMAT, task=self._task, revisions=[revision], files=self._stored
        )
        with home.commit_lock():
            _refuse_existing(home, self._task)
            home.write(home.task_file(self._task), manifest)
        return TaskRecord(self._folder, manifest, revision)


def _refuse_existing(home: Home, task: str) -> None:
    if home.files.exists(home.task_file(task)):
        raise AlreadyThere(
            f"the task {task!r} exists",
            where=str(home.folder),
            remedy=f"choose another name, or remove it first: deltakit rm {task}",
        )
    check_distinct(task, home.task_names(), "task")


@contextlib.contextmanager
def _folder(home: Home, task: str) -> Iterator[Path]:
    """Give the task's folder, made durable; one that stays empty is removed again."""
    folder = home.task_folder(task)
    home.files.make_folder(folder)
    home.files.sync_folder(home.tasks)
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def printable(path: Path) -> str:
    """Return a path as text that JSON can hold, whatever bytes it is made of."""
    return str(path).encode("utf-8", "backslashreplace").decode()
