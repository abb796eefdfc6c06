"""Adding a task: a fine-tuned model's delta to a registered base."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.delta_source import check_alike, merged_names
from deltakit.dtypes import itemsize
from deltakit.errors import BadFile, BadValue
from deltakit.mask import Mask
from deltakit.provenance import ModelTable
from deltakit.store.attach import check_importance
from deltakit.store.bases import Progress, open_base
from deltakit.store.home import Home
from deltakit.store.made_mask import MadeMask, MaskPlan
from deltakit.store.manifest import Revision, now
from deltakit.store.new_task import NewTask, new_task, printable
from deltakit.store.tasks import TaskRecord
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.tied import held_as
from deltakit.threads import run_all, usual_threads

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
    if lossless and (mask is not None or dtype is not None):
        raise BadValue(
            "a lossless delta keeps every changed byte as it is",
            got="a mask" if mask is not None else "a dtype for the values",
            remedy="leave out --lossless, or the mask and the dtype",
        )
    if isinstance(mask, MaskPlan):
        mask.masking()  # refused before anything is read
    with new_task(home, task) as new, contextlib.ExitStack() as opened:
        source, table = open_base(home, base, progress)
        opened.callback(source.close)
        tuned = Checkpoint.open(model, home.files)
        opened.callback(tuned.close)
        if importance is not None:
            infos = {**tuned.infos, **table.infos} if lossless else table.infos
            check_importance(importance, table.fingerprint, infos)
        if not lossless:
            check_alike(table.infos, tuned.infos, tuned.label)
        taking = _Taking(home, task, new, source, table, tuned, progress)
        delta = taking.lossless() if lossless else taking.additive(mask, dtype)
        opened.callback(delta.close)
        if not lossless and not len(delta):
            raise BadValue(
                "nothing to store: no entry differs from the base, or the mask keeps none",
                where=str(tuned.path),
                remedy="check that the model is a fine-tune of this base",
            )
        if importance is not None:
            new.keep("importance", lambda path: importance.save(path, files=home.files))
        source.check_unchanged()
        tuned.check_unchanged()
        return new.commit(
            Revision(
                parent=None,
                created=now(),
                reason="add",
                base=base,
                base_fingerprint=table.fingerprint,
                role=delta.role,
                density=delta.density,
                exact=delta.exact,
                model_nbytes=sum(shard.state.size for shard in tuned.shards),
                delta=new.names["delta"],
                importance=new.names.get("importance"),
                checkpoint=new.names.get("checkpoint"),
                provenance={
                    **delta.recipe,
                    "model": printable(tuned.path.absolute()),
                    **new.provenance,
                },
            )
        )


class _Taking:
    """The writing of one task's delta."""

    def __init__(
        self,
        home: Home,
        task: str,
        new: NewTask,
        source: Checkpoint,
        table: ModelTable,
        tuned: Checkpoint,
        progress: Progress | None,
    ) -> None:
        self._files, self._task, self._new = home.files, task, new
        self._source, self._table, self._tuned = source, table, tuned
        self._progress = progress

    def _entries(self, name: str, entries: int) -> None:
        if self._progress:
            self._progress(name, entries * itemsize(self._tuned.infos[name].dtype))

    def additive(self, mask: Mask | MaskPlan | None, dtype: str | None) -> Delta:
        """Write the mergeable delta."""
        from deltakit.add_difference import AddDifference
        from deltakit.delta import Delta
        from deltakit.diff import write_add

        if isinstance(mask, MaskPlan):
            read = AddDifference(self._source, self._tuned, None, None).lazy
            infos = {n: self._table.infos[n] for n in merged_names(self._table.infos)}
            mask = MadeMask(mask, self._task, infos, read)
        written = self._new.keep(
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
                files=self._files,
            ),
        )
        return Delta.open(written, self._files)

    def lossless(self) -> Delta:
        """Write the delta that restores, and the layout; prove before the commit that it does."""
        from deltakit.delta import Delta
        from deltakit.diff import write_replace
        from deltakit.restored import Restored

        written = self._new.keep(
            "delta",
            lambda path: write_replace(
                path,
                self._source,
                self._tuned,
                task=self._task,
                base_table=self._table,
                progress=self._entries,
                files=self._files,
            ),
        )
        self._new.keep_layout(self._tuned, self._tuned.path)
        delta = Delta.open(written, self._files)
        restored = Restored(self._source, delta)
        new = delta.new
        stored = {n: i for shard in self._tuned.shards for n, i in shard.header.infos.items()}
        lost = [n for n, info in stored.items() if new.infos.get(held_as(n, new.infos)) != info]

        def prove(name: str) -> None:
            if restored.digest(name) != new.digests[name]:
                lost.append(name)

        run_all(prove, iter(new.digests), usual_threads())
        if lost:
            raise BadFile(
                f"the delta does not restore {min(lost)!r}: nothing was added",
                where=self._tuned.label,
                remedy="check the disk, and report this as a fault of deltakit",
            )
        return delta
