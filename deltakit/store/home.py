"""The store's folder: finding it, its format, its paths and its locks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.errors import AlreadyThere, BadValue, DeltakitError, NotFound
from deltakit.store.manifest import FORMAT, MOST_BYTES, M, StoreManifest, decode, encode
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.new_file import write_whole

if TYPE_CHECKING:
    from deltakit.store.bases import Hashing

FOLDER_NAME = ".deltakit"
VARIABLE = "DELTAKIT_STORE"
PATIENCE = 30.0  # seconds to wait for a commit of another process; one takes milliseconds


class Home:
    """A folder that holds a store of this format; it names every path and lock of the store."""

    def __init__(self, folder: Path, files: Files = LOCAL) -> None:
        self.folder = folder
        self.files = files
        self.bases = folder / "bases"
        self.tasks = folder / "tasks"
        self.locks = folder / "locks"
        self.hashing: Hashing | None = None
        self.read(folder / "format.json", StoreManifest)

    @classmethod
    def create(cls, folder: Path, files: Files = LOCAL) -> Home:
        """Make a store in `folder`/.deltakit; format.json comes last: until then there is none."""
        home = Path(folder).absolute() / FOLDER_NAME
        if files.exists(home / "format.json"):
            raise AlreadyThere(
                "there is a store already", where=str(home), remedy="use it, or choose a folder"
            )
        for part in (home, home / "bases", home / "tasks", home / "locks"):
            files.make_folder(part)
        files.sync_folder(home.parent)
        files.sync_folder(home)
        write_whole(home / "format.json", encode(StoreManifest(format=FORMAT)), files=files)
        return cls(home, files)

    @classmethod
    def find(cls, path: str | Path | None = None, files: Files = LOCAL) -> Home:
        """Open the store at `path` (the .deltakit folder or the one that holds it).

        Without a path: the one DELTAKIT_STORE names, else the nearest from the working folder
        upward. Raises NotFound when there is none, BadFile for one of a newer format.
        """
        given = path if path is not None else os.environ.get(VARIABLE) or None
        if given is not None:
            start = Path(given).absolute()
            for folder in (start, start / FOLDER_NAME):
                if files.exists(folder / "format.json"):
                    return cls(folder, files)
            raise NotFound("there is no store", where=str(start), remedy="make one: deltakit init")
        start = Path.cwd()
        for parent in (start, *start.parents):
            if files.exists(parent / FOLDER_NAME / "format.json"):
                return cls(parent / FOLDER_NAME, files)
        raise NotFound(
            "there is no store here or in a folder above",
            where=str(start),
            remedy=f"make one (deltakit init), or name one with --store or {VARIABLE}",
        )

    def task_folder(self, task: str) -> Path:
        return self.tasks / task

    def task_file(self, task: str) -> Path:
        return self.tasks / task / "task.json"

    def base_file(self, base: str) -> Path:
        return self.bases / f"{base}.json"

    def read(self, path: Path, kind: type[M]) -> M:
        return decode(read_whole(path, self.files, MOST_BYTES), kind, str(path))

    def write(self, path: Path, manifest: M) -> None:
        """Replace a manifest durably; when this returns the new one is there for good."""
        if not self.files.exists(path.parent):  # a copy may have dropped it, empty
            self.files.make_folder(path.parent)
            self.files.sync_folder(path.parent.parent)
        write_whole(path, encode(manifest), replace=True, files=self.files)

    def task_names(self) -> list[str]:
        """Return the names of committed tasks, sorted."""
        return [f.name for f in self.listed(self.tasks) if self.files.exists(f / "task.json")]

    def base_names(self) -> list[str]:
        """Return the names of registered bases, sorted."""
        paths = self.listed(self.bases)
        return [p.stem for p in paths if p.suffix == ".json" and not p.name.startswith(".")]

    def listed(self, folder: Path) -> list[Path]:
        """Return what lies in a folder; one that is missing, or is removed just now, is empty."""
        try:
            return self.files.list(folder)
        except FileNotFoundError:  # a copy may drop empty folders, and gc removes them
            return []

    @contextlib.contextmanager
    def commit_lock(self) -> Iterator[None]:
        """Hold the one lock under which manifests change; the kernel frees it if we die."""
        with self._lock("commit.lock", PATIENCE, "another deltakit process is committing"):
            yield

    @contextlib.contextmanager
    def task_lock(self, task: str, patience: float | None = None) -> Iterator[None]:
        """Hold a task's folder for writing, from its first temporary file to its commit.

        While it is held, gc leaves the folder alone. Always taken before `commit_lock`.
        """
        fact = f"another deltakit process is writing the task {task!r}"
        wait = PATIENCE if patience is None else patience
        with self._lock(f"task-{task}.lock", wait, fact):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str, patience: float, fact: str) -> Iterator[None]:
        from filelock import FileLock, Timeout

        self.files.make_folder(self.locks)
        lock = FileLock(self.locks / name, timeout=patience)
        try:
            lock.acquire()
        except Timeout:
            raise Busy(fact, where=str(self.folder), remedy="try again when it is done") from None
        try:
            yield
        finally:
            lock.release()


def check_outside(out: Path) -> None:
    """Raise BadValue for an output in the folder of a store: what lies there is the store's."""
    target = out.resolve()
    for folder in (target, *target.parents):
        named = folder.name == FOLDER_NAME or (folder / "tasks").exists()
        if named and (folder / "format.json").exists():
            raise BadValue(
                "the output would lie in the folder of a store",
                where=str(out),
                expected="a folder outside of it",
                got=str(folder),
                remedy="choose another --out",
            )


class Busy(DeltakitError, BlockingIOError):
    """Something another process is writing."""

    __str__ = DeltakitError.__str__
