"""Verifying a store: every manifest and header, and on request every byte; nothing is repaired."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from deltakit.delta import Delta
from deltakit.errors import DeltakitError, NotFound, WrongBase
from deltakit.lora import open_adapter
from deltakit.provenance import check_kind
from deltakit.store.bases import BaseRecord, Progress, hash_model, read_base
from deltakit.store.damage import Finding, damage, found
from deltakit.store.home import Home
from deltakit.store.manifest import DATA_NAME
from deltakit.store.tasks import TaskRecord, read_task
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import file_digest
from deltakit.tensors.files import read_whole
from deltakit.tensors.reader import SafetensorsFile


def verify_store(
    home: Home, read_data: bool = False, progress: Progress | None = None
) -> list[Finding]:
    """Return everything wrong with the store; an empty list says that it is sound.

    The structure (manifests, their digests, presence, size and header of every file) is always
    looked at. With `read_data` every file is hashed, also those no task refers to, and every base.
    """
    findings: list[Finding] = []
    tasks = _folders(home)  # before the bases: a task's base was there before the task
    bases: dict[str, BaseRecord] = {}
    for name in home.base_names():
        try:
            bases[name] = read_base(home, name)
            bases[name].table  # noqa: B018  checks itself
        except (DeltakitError, OSError) as error:
            findings.append(found(home.base_file(name), error))
            continue
        findings += _base(home, bases[name], read_data, progress)
    look = _Look(home, bases, read_data, progress)
    for name in tasks:
        findings += _steady(home, name, partial(look.task, name))
    if read_data:
        findings += _unreferenced(home, look.known)
    return findings


def bytes_to_verify(home: Home) -> int:
    """Return how many bytes `verify_store` reads with `read_data`, as far as manifests tell."""
    total = 0
    for name in home.base_names():
        with contextlib.suppress(DeltakitError, OSError):
            total += read_base(home, name).nbytes
    for name in _folders(home):
        with contextlib.suppress(DeltakitError, OSError):
            total += sum(file.size for file in read_task(home, name).manifest.files.values())
    return total


def _folders(home: Home) -> list[str]:
    """Return the names of all that lies among the tasks, also of what may not be looked into."""
    return [folder.name for folder in home.listed(home.tasks)]


def _base(
    home: Home, record: BaseRecord, read_data: bool, progress: Progress | None
) -> Iterator[Finding]:
    """The base itself lies outside of the store: that it is there is looked at, and its bytes."""
    if not record.path.exists():
        yield Finding(
            record.path,
            None,
            f"the base {record.name!r} is not where it was;"
            f" say where it is now: deltakit base add {record.name} NEWPATH",
        )
        return
    if not read_data:
        return
    try:
        model = Checkpoint.open(record.path, home.files)
        try:
            table = hash_model(model, progress)
            record.table.check_same(table, f"the base {record.name!r}", str(record.path))
        finally:
            model.close()
    except WrongBase as error:
        yield Finding(record.path, None, error.fact)
    except (DeltakitError, OSError) as error:
        yield found(record.path, error)


def _steady(home: Home, name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Look at a task again when another process changed it meanwhile: readers take no lock."""
    while True:
        before = _commit(home, name)
        bad = look()
        if not bad or before == _commit(home, name):
            return bad


def _commit(home: Home, name: str) -> bytes | None:
    try:
        return read_whole(home.task_file(name), home.files)
    except (DeltakitError, OSError):
        return None


class _Look:
    """One look at all tasks, and which files they refer to."""

    def __init__(
        self,
        home: Home,
        bases: dict[str, BaseRecord],
        read_data: bool,
        progress: Progress | None,
    ) -> None:
        self._home, self._bases, self._read_data = home, bases, read_data
        self._progress = progress
        self.known: set[Path] = set()

    def task(self, name: str) -> list[Finding]:
        """Return what is wrong with a task; nothing where it is no longer there."""
        home = self._home
        path = home.task_file(name)
        try:
            if not home.files.exists(path):
                return []
            record = read_task(home, name)
        except (DeltakitError, OSError) as error:
            return [found(path, error)]
        bad: list[Finding] = []
        if record.base is not None:
            base = self._bases.get(record.base)
            if base is None:
                bad.append(Finding(path, None, f"its base {record.base!r} is not in the store"))
            elif base.fingerprint != record.base_fingerprint:
                fact = f"the base {record.base!r} is another one than it had"
                bad.append(Finding(path, None, fact))
        for file, stored in record.manifest.files.items():
            self.known.add(record.folder / file)
            bad += damage(record.folder / file, stored, self._read_data, home.files)
            if self._progress:
                self._progress(f"{name}/{file}", stored.size)
        return bad or list(self._artifacts(record))

    def _artifacts(self, record: TaskRecord) -> Iterator[Finding]:
        """A task's files must say of themselves what the manifest says of them."""
        for name in record.manifest.files:
            path = record.folder / name
            try:
                kind = name.partition("-")[0]
                if kind in ("delta", "adapter"):
                    if _about(path, kind, self._home) != (record.role, record.base_fingerprint):
                        yield Finding(path, None, f"it is another {kind} than the manifest says")
                else:
                    file = SafetensorsFile(path, self._home.files)
                    file.close()
                    check_kind(file.header.metadata, kind)
            except (DeltakitError, OSError) as error:
                yield found(path, error)


def _about(path: Path, kind: str, home: Home) -> tuple[str, str | None]:
    """Return role and base of a delta or an adapter, as its own file says."""
    if kind == "delta":
        delta = Delta.open(path, home.files)
        delta.close()
        return delta.role, delta.base.fingerprint
    adapter = open_adapter(path, home.files)
    adapter.close()
    return kind, None if adapter.base is None else adapter.base.fingerprint


def _unreferenced(home: Home, known: set[Path]) -> Iterator[Finding]:
    for folder in home.listed(home.tasks):
        try:
            paths = home.listed(folder) if folder.is_dir() else []
        except OSError as error:
            yield found(folder, error)
            continue
        for path in paths:
            if path in known or not re.match(DATA_NAME, path.name):
                continue
            try:
                _, digest = file_digest(path, home.files)
            except NotFound:  # gc has taken it meanwhile
                continue
            except (DeltakitError, OSError) as error:
                yield found(path, error)
                continue
            if digest not in path.name:
                yield Finding(path, None, "damaged (no task refers to it; deltakit gc removes it)")
