"""Attaching an importance map to a task: a new revision of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from deltakit.errors import (
    BadValue,
    DeltakitError,
    NamesDiffer,
    ShapeMismatch,
    WrongBase,
    nearest,
    some,
)
from deltakit.lora import open_adapter
from deltakit.lora.layout import PREFIX
from deltakit.store.content import keep
from deltakit.store.home import Home
from deltakit.store.manifest import now
from deltakit.store.tasks import TaskRecord, read_task
from deltakit.strategies import check_heads
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from deltakit.importance import ImportanceMap
    from deltakit.lora.adapter import Adapter
    from deltakit.provenance import ModelTable


def attach_importance(home: Home, task: str, importance: ImportanceMap) -> TaskRecord:
    """Commit a revision of the task with this map in place of the one it had."""
    with home.task_lock(task):
        record = read_task(home, task)
        _check_fits(importance, record, home)
        name, file = keep(
            record.folder,
            "importance",
            lambda path: importance.save(path, files=home.files),
            home.files,
        )
        revision = msgspec.structs.replace(
            record.at,
            parent=record.revision,
            created=now(),
            reason="importance",
            importance=name,
        )
        manifest = msgspec.structs.replace(
            record.manifest,
            revisions=[*record.manifest.revisions, revision],
            files={**record.manifest.files, name: file},
        )
        with home.commit_lock():
            home.write(home.task_file(task), manifest)
    return TaskRecord(record.folder, manifest, revision)


def _check_fits(importance: ImportanceMap, record: TaskRecord, home: Home) -> None:
    if record.role == "adapter":
        adapter = open_adapter(record.delta_path, home.files)
        adapter.close()
        check_importance_of_adapter(importance, adapter)
        return
    from deltakit.delta import Delta

    delta = Delta.open(record.delta_path, home.files)
    delta.close()
    infos = {**delta.new.infos, **delta.base.infos}
    check_importance(importance, delta.base.fingerprint, infos)


def check_importance_of_adapter(
    importance: ImportanceMap, adapter: Adapter, base: ModelTable | None = None
) -> None:
    """Raise unless the map scores ranks of this adapter, or parameters of the base it is tied to.

    base: what it is tied to, where its file does not say so yet.
    """
    base = base or adapter.base
    if importance.units != "rank":
        if base is None:
            raise BadValue(
                "the adapter is tied to no base whose parameters the map could score",
                where=adapter.label,
                got=f"units {importance.units!r}",
                remedy="add the adapter with --base NAME, or a map of rank units",
            )
        check_importance(importance, base.fingerprint, base.infos)
        return
    infos = {
        prefix + module: TensorInfo("F32", (part.rank,))
        for module, part in adapter.parts.items()
        for prefix in ("", PREFIX)
    }
    fingerprint = importance.base if base is None else base.fingerprint
    check_importance(importance, fingerprint, infos)


def check_importance(
    importance: ImportanceMap, base_fingerprint: str | None, infos: Mapping[str, TensorInfo]
) -> None:
    """Raise unless the map fits a model of this base with these parameters.

    A map need not score every parameter (frozen ones have no score); a strategy that needs them
    all says so when it merges. Raises WrongBase, NamesDiffer or ShapeMismatch.
    """
    label = f"the importance map of {importance.task!r}"
    if importance.base is not None and importance.base != base_fingerprint:
        raise WrongBase(
            f"{label} was measured on another base",
            expected=f"fingerprint {(base_fingerprint or 'unknown')[:16]}",
            got=f"fingerprint {importance.base[:16]}",
            remedy="measure it again: deltakit importance",
        )
    unknown = set(importance) - set(infos)
    if unknown:
        close = nearest(min(unknown), list(infos))
        raise NamesDiffer(
            f"{label} scores {len(unknown)} parameters that the model lacks",
            got=some(unknown),
            remedy=f"is {min(unknown)!r} what the model calls {close!r}?"
            if close
            else "measure it on a model of this architecture: deltakit importance",
        )
    if importance.units == "head":
        try:
            check_heads(importance, {name: infos[name].shape for name in importance})
        except DeltakitError as error:
            raise error.at(label) from None
        return
    for name, scores in importance.items():
        shape, units = infos[name].shape, importance.units
        fitting = {"element": shape, "rank": shape, "row": shape[:1], "gram": shape[-1:] * 2}
        expected = fitting.get(units, tuple(scores.shape))
        if tuple(scores.shape) != expected:
            raise ShapeMismatch(
                f"{label} does not fit {name!r}",
                expected=f"{list(expected)} for {units} units",
                got=f"{list(scores.shape)}",
            )
