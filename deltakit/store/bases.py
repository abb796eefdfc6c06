"""Base models: where each lies, and whether it is still what it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deltakit.dtypes import DTYPES
from deltakit.errors import (
    AlreadyThere,
    BadFile,
    BadValue,
    NotFound,
    UnknownName,
    WrongBase,
    nearest,
)
from deltakit.provenance import ModelTable
from deltakit.store.home import Home
from deltakit.store.manifest import FORMAT, BaseManifest, now
from deltakit.store.names import check_distinct, check_name
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo

Progress = Callable[[str, int], None]  # tensor, bytes done since the last call

# Told of a base that must be hashed again; its context gives what is told how far that is.
Hashing = Callable[["BaseRecord"], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class BaseRecord:
    """A base as the store knows it: name, path, fingerprint, and the table of its tensors."""

    manifest: BaseManifest

    @property
    def name(self) -> str:
        return self.manifest.base

    @property
    def path(self) -> Path:
        return Path(self.manifest.path)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def created(self) -> str:
        return self.manifest.created

    @cached_property
    def table(self) -> ModelTable:
        """Dtype, shape and digest of every tensor; BadFile if the fingerprint differs."""
        rows = self.manifest.tensors
        for name, (dtype, _, _) in rows.items():
            if dtype not in DTYPES:
                raise BadFile(
                    f"unknown dtype {dtype!r}", where=f"base {self.name!r}, tensor {name!r}"
                )
        infos = {name: TensorInfo(dtype, shape) for name, (dtype, shape, _) in rows.items()}
        table = ModelTable(infos, {name: digest for name, (_, _, digest) in rows.items()})
        if table.fingerprint != self.fingerprint:
            raise BadFile("the table is not the fingerprint's", where=f"base {self.name!r}")
        return table

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.table.infos.values())


def read_base(home: Home, name: str) -> BaseRecord:
    """Return a base's record; an unknown name is an error with the nearest one."""
    check_name(name, "base")
    path = home.base_file(name)
    if not home.files.exists(path):
        known = home.base_names()
        close = nearest(name, known)
        raise UnknownName(
            f"no base {name!r} in the store",
            where=str(home.folder),
            remedy=f"did you mean {close!r}?"
            if close
            else f"add it: deltakit base add {name} PATH"
            + (f" (there is {', '.join(known[:5])})" if known else ""),
        )
    manifest = home.read(path, BaseManifest)
    if manifest.base != name:
        raise BadFile("a base's record under another name", where=str(path), got=manifest.base)
    return BaseRecord(manifest)


def write_base(home: Home, name: str, path: Path, progress: Progress | None) -> BaseRecord:
    """Hash a model and register it; a registered base may move but not become another model."""
    check_name(name, "base")
    place = str(path.absolute())
    if not _is_text(place):
        raise BadValue("the base's path is not UTF-8 text", got=ascii(place))
    model = Checkpoint.open(place, home.files)
    try:
        table = hash_model(model, progress)
        manifest = BaseManifest(
            format=FORMAT,
            base=name,
            path=place,
            created=now(),
            fingerprint=table.fingerprint,
            tensors={n: (i.dtype, i.shape, table.digests[n]) for n, i in table.infos.items()},
            files=_looks(model),
        )
    finally:
        model.close()
    with home.commit_lock():
        check_distinct(name, home.base_names(), "base")
        if home.files.exists(home.base_file(name)):
            _check_moved(read_base(home, name), table, place)
        home.write(home.base_file(name), manifest)
    return BaseRecord(manifest)


def _check_moved(old: BaseRecord, table: ModelTable, place: str) -> None:
    try:
        old.table.check_same(table, f"the base {old.name!r}", place)
    except WrongBase as error:
        raise AlreadyThere(
            f"the base {old.name!r} is registered, and this is another model",
            where=place,
            expected=f"the model first registered from {old.path}",
            got=error.fact.partition(": ")[2],
            remedy="register it under another name",
        ) from None


def open_base(home: Home, name: str, progress: Progress | None) -> tuple[Checkpoint, ModelTable]:
    """Open a base and make sure that it is still the model that was registered.

    Files that look as they did (name, size, time) are not read; others are hashed again. Raises
    NotFound for a base that moved away, WrongBase naming the first tensor that differs.
    """
    record = read_base(home, name)
    if not record.path.exists():
        raise NotFound(
            f"the base {name!r} is not where it was",
            where=str(record.path),
            remedy=f"say where it is now: deltakit base add {name} NEWPATH",
        )
    model = Checkpoint.open(record.path, home.files)
    try:
        if _looks(model) != record.manifest.files:
            with _showing(home, record, progress) as advance:
                found = hash_model(model, advance)
            record.table.check_same(found, f"the store's base {name!r}", str(record.path))
        return model, record.table
    except BaseException:
        model.close()
        raise


def _showing(
    home: Home, record: BaseRecord, progress: Progress | None
) -> AbstractContextManager[Progress | None]:
    """Give who is told how far the hashing is: whoever asked for the base, or the store's user."""
    if progress is not None or home.hashing is None:
        return nullcontext(progress)
    return home.hashing(record)


def hash_model(model: Checkpoint, progress: Progress | None) -> ModelTable:
    """Read a whole model and return its table; one that changes meanwhile is InputChanged."""
    digests = {}
    for name in sorted(model.infos):
        digests[name] = model.digest(name)
        if progress:
            progress(name, model.infos[name].nbytes)
    model.check_unchanged()
    return ModelTable(model.infos, digests)


def _looks(model: Checkpoint) -> list[tuple[str, int, int]]:
    return [(s.path.name, s.state.size, s.state.mtime_ns) for s in model.shards]


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
