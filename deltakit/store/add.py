"""Adding a task: its files first, each complete and durable, then the manifest that names them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.delta_source import check_alike, merged_names
from deltakit.engine.threads import one_torch_thread
from deltakit.errors import AlreadyThere, BadFile, BadValue
from deltakit.mask import Mask
from deltakit.provenance import ModelTable
from deltakit.store.attach import check_importance
from deltakit.store.bases import Progress, open_base
from deltakit.store.content import keep
from deltakit.store.home import Home
from deltakit.store.layout import Layout, left_out
from deltakit.store.made_mask import MadeMask, MaskPlan
from deltakit.store.manifest import FORMAT, Revision, StoredFile, TaskManifest, now
from deltakit.store.names import check_distinct, check_name
from deltakit.store.tasks import TaskRecord, read_task
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.dtypes import itemsize

if TYPE_CHECKING:
    from deltakit.delta import Delta
    from deltakit.importance import ImportanceMap


def add_task(
    home: Home,
    task: str,
    base: str,
    model: Path,
    *,
    lossless: bool = False,
    mask: Mask | MaskPlan | None = None,
    dtype: str | None = None,
    importance: ImportanceMap | None = None,
    progress: Progress | None = None,
) -> TaskRecord:
    """Take a fine-tuned model's delta to a registered base and commit it as a new task."""
    check_name(task, "task")
    if lossless and (mask is not None or dtype is not None):
        raise BadValue(
            "a lossless delta keeps every changed byte as it is",
            got="a mask" if mask is not None else "a dtype for the values",
            remedy="leave out --lossless, or the mask and the dtype",
        )
    if isinstance(mask, MaskPlan):
        mask.masking()  # refused before anything is read
    _refuse_existing(home, task)
    with home.task_lock(task), one_torch_thread(), contextlib.ExitStack() as opened:
        _refuse_existing(home, task)
        source, table = open_base(home, base, progress)
        opened.callback(source.close)
        tuned = Checkpoint.open(model, home.files)
        opened.callback(tuned.close)
        if importance is not None:
            infos = {**tuned.infos, **table.infos} if lossless else table.infos
            check_importance(importance, table.fingerprint, infos)
        if not lossless:
            check_alike(table.infos, tuned.infos, tuned.label)
        with task_folder(home, task):
            taking = _Taking(home, task, source, table, tuned, progress)
            delta = taking.lossless() if lossless else taking.additive(mask, dtype)
            opened.callback(delta.close)
            if not lossless and not len(delta):
                raise BadValue(
                    "nothing to store: no entry differs from the base, or the mask keeps none",
                    where=str(tuned.path),
                    remedy="check that the model is a fine-tune of this base",
                )
            if importance is not None:
                taking.keep("importance", lambda path: importance.save(path, files=home.files))
            source.check_unchanged()
            tuned.check_unchanged()
            revision = Revision(
                parent=None,
                created=now(),
                reason="add",
                base=base,
                base_fingerprint=table.fingerprint,
                role=delta.role,
                density=delta.density,
                exact=delta.exact,
                model_nbytes=sum(shard.state.size for shard in tuned.shards),
                delta=taking.names["delta"],
                importance=taking.names.get("importance"),
                checkpoint=taking.names.get("checkpoint"),
                provenance={**delta.recipe, **taking.provenance},
            )
            manifest = TaskManifest(
                format=FORMAT, task=task, revisions=[revision], files=taking.stored
            )
            with home.commit_lock():
                _refuse_existing(home, task)
                check_distinct(task, home.task_names(), "task")
                home.write(home.task_file(task), manifest)
    return read_task(home, task)


def _refuse_existing(home: Home, task: str) -> None:
    if home.files.exists(home.task_file(task)):
        raise AlreadyThere(
            f"the task {task!r} exists",
            where=str(home.folder),
            remedy=f"choose another name, or remove it first: deltakit rm {task}",
        )
    check_distinct(task, home.task_names(), "task")


@contextlib.contextmanager
def task_folder(home: Home, task: str) -> Iterator[Path]:
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


class _Taking:
    """One task's files while they are written, and what is told of them in the manifest."""

    def __init__(
        self,
        home: Home,
        task: str,
        source: Checkpoint,
        table: ModelTable,
        tuned: Checkpoint,
        progress: Progress | None,
    ) -> None:
        self._home, self._task, self._source, self._table = home, task, source, table
        self._tuned, self._progress = tuned, progress
        self.names: dict[str, str] = {}
        self.stored: dict[str, StoredFile] = {}
        self.provenance = {"model": printable(tuned.path.absolute())}

    def keep(self, kind: str, write: Callable[[Path], object]) -> None:
        home = self._home
        name, file = keep(home.task_folder(self._task), kind, write, home.files)
        self.names[kind], self.stored[name] = name, file

    def _entries(self, name: str, entries: int) -> None:
        if self._progress:
            self._progress(name, entries * itemsize(self._tuned.infos[name].dtype))

    def _delta(self) -> Delta:
        from deltakit.delta import Delta

        path = self._home.task_folder(self._task) / self.names["delta"]
        return Delta.open(path, self._home.files)

    def additive(self, mask: Mask | MaskPlan | None, dtype: str | None) -> Delta:
        """Write the mergeable delta."""
        from deltakit.diff import write_add
        from deltakit.difference import AddDifference

        if isinstance(mask, MaskPlan):
            read = AddDifference(self._source, self._tuned, None, None).values
            infos = {n: self._table.infos[n] for n in merged_names(self._table.infos)}
            mask = MadeMask(mask, self._task, infos, read)
        self.keep(
            "delta",
            lambda path: write_add(
                path,
                self._source,
                self._tuned,
                task=self._task,
                mask=mask,
                dtype=dtype,
                base_table=self._table,
                progress=self._entries,
                files=self._home.files,
            ),
        )
        return self._delta()

    def lossless(self) -> Delta:
        """Write the delta that restores, and the layout; prove before the commit that it does."""
        from deltakit.diff import write_replace
        from deltakit.restored import Restored

        self.keep(
            "delta",
            lambda path: write_replace(
                path,
                self._source,
                self._tuned,
                task=self._task,
                base_table=self._table,
                progress=self._entries,
                files=self._home.files,
            ),
        )
        layout = Layout.of(self._tuned, self._home.files)
        self.keep("checkpoint", lambda path: layout.save(path, self._task, self._home.files))
        delta = self._delta()
        restored = Restored(self._source, delta)
        for name, digest in delta.new.digests.items():
            if restored.digest(name) != digest:
                raise BadFile(
                    f"the delta does not restore {name!r}: nothing was added",
                    where=self._tuned.label,
                    remedy="check the disk, and report this as a fault of deltakit",
                )
        lost = left_out(self._tuned)
        if lost:
            self.provenance["left_out"] = ", ".join(printable(Path(name)) for name in lost)
        return delta


def printable(path: Path) -> str:
    """Return a path as text that JSON can hold, whatever bytes it is made of."""
    return str(path).encode("utf-8", "backslashreplace").decode()
