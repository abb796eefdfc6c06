"""Tasks as the store knows them: records read from task.json, without locks and without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deltakit.errors import BadFile, NotFound, UnknownName, nearest
from deltakit.store.home import Home
from deltakit.store.manifest import Revision, Role, TaskManifest
from deltakit.store.names import check_name


@dataclass(frozen=True)
class TaskRecord:
    """A task at one revision: what it is, and where its files lie.

    `nbytes` is the size of the delta's file, `total_nbytes` that of all files of the revision.
    """

    folder: Path
    manifest: TaskManifest
    at: Revision

    @property
    def name(self) -> str:
        return self.manifest.task

    @property
    def base(self) -> str | None:
        """The name of its base; None for an adapter that was added without one."""
        return self.at.base

    @property
    def base_fingerprint(self) -> str | None:
        return self.at.base_fingerprint

    @property
    def role(self) -> Role:
        return self.at.role

    @property
    def density(self) -> float | None:
        """The fraction of the base's mergeable entries that hold a value; None for an adapter."""
        return self.at.density

    @property
    def exact(self) -> bool:
        """Whether storing the values lost nothing to rounding."""
        return self.at.exact

    @property
    def delta_path(self) -> Path:
        return self.folder / self.at.delta

    @property
    def importance_path(self) -> Path | None:
        return None if self.at.importance is None else self.folder / self.at.importance

    @property
    def checkpoint_path(self) -> Path | None:
        """The record of the original files, of a lossless task or an adapter, or None."""
        return None if self.at.checkpoint is None else self.folder / self.at.checkpoint

    @property
    def nbytes(self) -> int:
        return self.manifest.files[self.at.delta].size

    @property
    def total_nbytes(self) -> int:
        return sum(self.manifest.files[name].size for name in self.at.names)

    @property
    def model_nbytes(self) -> int:
        """The size of the weight files that the task was added from."""
        return self.at.model_nbytes

    @property
    def created(self) -> str:
        """When the revision was committed, in UTC: 2026-01-31T12:00:00Z."""
        return self.at.created

    @property
    def reason(self) -> str:
        """What made the revision: "add" or "importance"."""
        return self.at.reason

    @property
    def revision(self) -> str:
        return self.at.id

    @property
    def parent(self) -> str | None:
        return self.at.parent

    @property
    def provenance(self) -> dict[str, str]:
        return dict(self.at.provenance)


def read_task(home: Home, name: str) -> TaskRecord:
    """Return a task's record; an unknown name is an error with the nearest one."""
    check_name(name, "task")
    path = home.task_file(name)
    if not home.files.exists(path):
        raise unknown(home, name)
    try:
        manifest = home.read(path, TaskManifest)
    except NotFound:  # removed just now
        raise unknown(home, name) from None
    if manifest.task != name:
        raise BadFile("a task's record under another name", where=str(path), got=manifest.task)
    return TaskRecord(path.parent, manifest, manifest.current)


def read_log(home: Home, name: str) -> list[TaskRecord]:
    """Return a task's revisions, the newest first."""
    task = read_task(home, name)
    return [TaskRecord(task.folder, task.manifest, r) for r in reversed(task.manifest.revisions)]


def unknown(home: Home, name: str) -> UnknownName:
    """Return the error for a task that the store does not have."""
    known = home.task_names()
    close = nearest(name, known)
    return UnknownName(
        f"no task {name!r} in the store",
        where=str(home.folder),
        remedy=f"did you mean {close!r}?"
        if close
        else "deltakit ls lists the tasks"
        if known
        else f"the store has no task yet: deltakit add {name} --base BASE --model PATH",
    )
