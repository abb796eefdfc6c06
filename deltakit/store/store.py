"""Store: tasks by name, each a delta to a registered base, or an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.store import bases, tasks
from deltakit.store.home import Home
from deltakit.store.tasks import TaskRecord
from deltakit.tensors.files import LOCAL, Files

if TYPE_CHECKING:
    from deltakit.importance import ImportanceMap
    from deltakit.mask import Mask
    from deltakit.provenance import ModelTable
    from deltakit.store.bases import BaseRecord, Hashing
    from deltakit.store.damage import Finding
    from deltakit.store.gc import Collected
    from deltakit.store.made_mask import MaskPlan
    from deltakit.store.restore import RestoreProof
    from deltakit.tensors.checkpoint import Checkpoint

Progress = Callable[[str, int], None]  # tensor, bytes done since the last call


class Store:
    """A folder `.deltakit` that holds deltas by task name.

    >>> import tempfile
    >>> store = Store.init(tempfile.mkdtemp())
    >>> store.tasks()
    []

    Changes are atomic and durable: after a crash a task is as it was before, or as it is after.
    Any number of processes may write at once; readers take no lock. Every method raises a
    DeltakitError that says what to do; an unknown task or base is UnknownName with the nearest one.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    @classmethod
    def init(cls, folder: str | Path, files: Files = LOCAL) -> Store:
        """Make a store in `folder`/.deltakit; raises AlreadyThere when there is one."""
        return cls(Home.create(Path(folder), files))

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        files: Files = LOCAL,
        hashing: Hashing | None = None,
    ) -> Store:
        """Open the store at `path`, or the one DELTAKIT_STORE names, or the nearest one upward.

        hashing: called with a base's record before the base is hashed again, since its files look
        other than they did; gives a context with the progress to tell. Raises NotFound when there
        is none, BadFile for a store of a newer format.
        """
        home = Home.find(path, files)
        home.hashing = hashing
        return cls(home)

    @property
    def folder(self) -> Path:
        """The `.deltakit` folder."""
        return self._home.folder

    def add_base(self, name: str, path: str | Path, progress: Progress | None = None) -> BaseRecord:
        """Register a base model under a name; reads it whole, once.

        A registered base may be given again, at the same place or another, if it is the same
        model; another model is AlreadyThere.
        """
        return bases.write_base(self._home, name, Path(path), progress)

    def bases(self) -> dict[str, BaseRecord]:
        """Return the registered bases by name."""
        return {name: self.base(name) for name in self._home.base_names()}

    def base(self, name: str) -> BaseRecord:
        """Return what is known of a base, without opening it."""
        return bases.read_base(self._home, name)

    def open_base(
        self, name: str, progress: Progress | None = None
    ) -> tuple[Checkpoint, ModelTable]:
        """Open a base, sure that it is the model that was registered, and return its table.

        A base whose files look as they did is not read; else it is hashed again. Raises NotFound
        when it moved away and WrongBase naming the first tensor that differs.
        """
        return bases.open_base(self._home, name, progress)

    def add(
        self,
        task: str,
        base: str,
        model_path: str | Path,
        *,
        lossless: bool = False,
        mask: Mask | MaskPlan | None = None,
        dtype: str | None = None,
        importance: str | Path | ImportanceMap | None = None,
        progress: Progress | None = None,
    ) -> TaskRecord:
        """Store what a fine-tuned model changed in a base, as a new task.

        >>> store.add("trec", "minilm", "./ft-trec")                     # doctest: +SKIP

        `lossless`: every changed byte, and what restores the folder bit for bit; else a mergeable
        delta, thinned by `mask` (`MaskPlan("magnitude", {"density": 0.1})` keeps the largest tenth
        of each parameter), with values in `dtype` (a safetensors name; by default each
        parameter's own). Raises AlreadyThere for a task that exists, NamesDiffer, ShapeMismatch or
        DtypeMismatch for a model that does not fit, WrongBase for an importance map of another
        base.
        """
        from deltakit.store.add import add_task

        return add_task(
            self._home,
            task,
            base,
            Path(model_path),
            lossless=lossless,
            mask=mask,
            dtype=dtype,
            importance=self._map(importance),
            progress=progress,
        )

    def add_adapter(
        self,
        task: str,
        path: str | Path,
        *,
        base: str | None = None,
        importance: str | Path | ImportanceMap | None = None,
        progress: Progress | None = None,
    ) -> TaskRecord:
        """Store a LoRA adapter as a new task: its factors as they are, never multiplied out.

        >>> store.add_adapter("style", "./lora-style", base="llama")     # doctest: +SKIP

        path: a PEFT folder or a kohya file; `restore` gives its files back byte for byte. base: a
        registered base that it is fitted to, and tied to from then on; without one its names and
        shapes are checked when it is merged. Raises AlreadyThere, BadFile for what is not
        understood, NamesDiffer or ShapeMismatch for a base that it does not fit.
        """
        from deltakit.store.add_adapter import add_adapter

        return add_adapter(
            self._home,
            task,
            Path(path),
            base=base,
            importance=self._map(importance),
            progress=progress,
        )

    def _map(self, given: str | Path | ImportanceMap | None) -> ImportanceMap | None:
        from deltakit.importance import ImportanceMap

        if isinstance(given, str | Path):
            return ImportanceMap.open(given, self._home.files)
        return given

    def attach_importance(self, task: str, importance: ImportanceMap) -> TaskRecord:
        """Give a task an importance map, as a new revision of it; refuses one of another base."""
        from deltakit.store.attach import attach_importance

        return attach_importance(self._home, task, importance)

    def tasks(self) -> list[str]:
        """Return the names of the tasks, sorted."""
        return self._home.task_names()

    def task(self, name: str) -> TaskRecord:
        """Return a task's current revision."""
        return tasks.read_task(self._home, name)

    def log(self, name: str) -> list[TaskRecord]:
        """Return a task's revisions, the newest first."""
        return tasks.read_log(self._home, name)

    def remove(self, name: str) -> None:
        """Take a task out of the store; its files stay until `gc` collects them."""
        from deltakit.store.remove import remove_task

        remove_task(self._home, name)

    def restore(
        self,
        name: str,
        out: str | Path,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> RestoreProof:
        """Write the folder a lossless task or an adapter was added from, and prove it is the same.

        `overwrite` replaces a folder all of whose files are the task's by name, and no other.
        Raises BadValue for a task that is neither and for an `out` in a store's folder, BadFile
        when what would be written is not what was added; then nothing is left in `out`.
        """
        from deltakit.store.restore import restore_task

        return restore_task(self._home, name, Path(out), overwrite=overwrite, progress=progress)

    def verify(self, read_data: bool = False, progress: Progress | None = None) -> list[Finding]:
        """Return everything wrong with the store; with `read_data` every byte is looked at."""
        from deltakit.store.verify import verify_store

        return verify_store(self._home, read_data, progress)

    def bytes_to_verify(self) -> int:
        """Return how many bytes `verify(read_data=True)` reads, for a progress bar."""
        from deltakit.store.verify import bytes_to_verify

        return bytes_to_verify(self._home)

    def gc(self, grace_seconds: float = 3600.0, dry_run: bool = False) -> Collected:
        """Delete what no task refers to and nothing has touched for `grace_seconds`."""
        from deltakit.store.gc import collect

        return collect(self._home, grace_seconds=grace_seconds, dry_run=dry_run)
