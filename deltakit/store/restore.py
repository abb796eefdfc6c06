"""Restoring what a task was added from, file by file, with the proof that it is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deltakit.errors import AlreadyThere, BadFile, BadValue, DeltakitError, some
from deltakit.provenance import ModelTable
from deltakit.store.bases import Progress, open_base
from deltakit.store.home import Home, check_outside
from deltakit.store.layout import Layout, WeightFile
from deltakit.store.tasks import TaskRecord, read_task
from deltakit.tensors import header
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import file_digest
from deltakit.tensors.new_file import NewFile, write_whole
from deltakit.tensors.new_folder import new_folder
from deltakit.tensors.source import TensorSource
from deltakit.tensors.tied import held_as
from deltakit.threads import one_torch_thread

if TYPE_CHECKING:
    from deltakit.delta_source import DeltaSource

CHUNK = 4 << 20


@dataclass(frozen=True)
class FileProof:
    """A weight file: its size, its blake3 when it was added, and that of the file written now."""

    name: str
    nbytes: int
    added: str
    written: str


@dataclass(frozen=True)
class RestoreProof:
    """What shows that a restored folder is the one that was added."""

    task: str
    folder: Path
    fingerprint_added: str
    fingerprint_written: str
    files: list[FileProof]
    beside: list[str]  # config, index and tokenizer files, written from their own bytes


def restore_task(
    home: Home, name: str, out: Path, *, overwrite: bool = False, progress: Progress | None = None
) -> RestoreProof:
    """Write the checkpoint or adapter that a task was added from, bit for bit."""
    record = read_task(home, name)
    if record.checkpoint_path is None:
        raise BadValue(
            f"the task {name!r} does not restore a model bit for bit: it holds a mergeable delta",
            where=str(record.delta_path),
            remedy=f"to get a model from it: deltakit merge {name} --strategy task_arithmetic"
            " --out DIR\nto keep one bit for bit: deltakit add NAME --lossless ...",
        )
    with one_torch_thread(), contextlib.ExitStack() as opened:
        find = _adapter if record.role == "adapter" else _model
        found = find(home, record, opened, progress)
        layout = Layout.open(record.checkpoint_path, home.files)
        _check_place(out, [*found.kept, home.folder], layout, overwrite)
        with new_folder(out, replace=overwrite, files=home.files) as folder:
            _write_beside(home, layout, folder)
            for file, was in layout.weights.items():
                _write_weights(home, found.source, folder / file, was, progress)
            for source in found.read:
                source.check_unchanged()
            return _prove(home, record, layout, found.new, folder, out)


class _Found(NamedTuple):
    """Where the values come from, and what they must come to."""

    source: TensorSource
    new: ModelTable
    read: Sequence[TensorSource | DeltaSource]
    kept: Sequence[Path] = ()  # folders that the output must not replace


def _model(
    home: Home, record: TaskRecord, opened: contextlib.ExitStack, progress: Progress | None
) -> _Found:
    from deltakit.delta import Delta
    from deltakit.restored import Restored

    assert record.base is not None  # only an adapter may lack it
    base, table = open_base(home, record.base, progress)
    opened.callback(base.close)
    delta = Delta.open(record.delta_path, home.files)
    opened.callback(delta.close)
    delta.base.check_same(table, f"the task {record.name!r}", str(base.path))
    return _Found(Restored(base, delta), delta.new, [base, delta], [base.folder])


def _adapter(
    home: Home, record: TaskRecord, opened: contextlib.ExitStack, progress: Progress | None
) -> _Found:
    from deltakit.lora import open_adapter

    source = open_adapter(record.delta_path, home.files).source
    opened.callback(source.close)
    return _Found(source, ModelTable(source.infos, source.digests()), [source])


def _check_place(out: Path, kept: list[Path], layout: Layout, overwrite: bool) -> None:
    for place in kept:
        if place.resolve().is_relative_to(out.resolve()):
            raise AlreadyThere(
                "the output would take the place of the store or of the base",
                where=str(out),
                got=f"it holds {place}",
                remedy="choose another --out",
            )
    if (out.exists() or out.is_symlink()) and (out.is_symlink() or not out.is_dir()):
        raise AlreadyThere(
            "the output exists and is no folder", where=str(out), remedy="choose another --out"
        )
    check_outside(out)
    if not overwrite or not out.is_dir():
        return
    paths = {path.relative_to(out).as_posix() for path in _files(out)}
    strange = paths - {*layout.weights, *layout.beside}
    if strange:
        raise AlreadyThere(
            "the output exists and holds what is no part of the task, so it is not ours to replace",
            where=str(out),
            got=some(strange),
            remedy="choose another --out, or delete it yourself",
        )


def _files(folder: Path) -> Iterator[Path]:
    """Give everything below a folder that is no folder; links are not followed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _write_beside(home: Home, layout: Layout, folder: Path) -> None:
    deeper = sorted({path.parent for name in layout.beside for path in [folder / name]})
    for place in deeper:
        home.files.make_folder(place)
    for name, data in layout.beside.items():
        write_whole(folder / name, data, files=home.files)
    for place in deeper:
        home.files.sync_folder(place)


def _write_weights(
    home: Home, source: TensorSource, path: Path, was: WeightFile, progress: Progress | None
) -> None:
    try:
        found = header.parse(was.prefix[8:], was.size)
    except DeltakitError as error:
        raise error.at(f"the kept header of {path.name}") from None
    with NewFile(path, was.size, files=home.files) as file:
        file.write(was.prefix, 0)
        buffer = memoryview(bytearray(CHUNK))
        for name in sorted(found.offsets, key=lambda n: found.offsets[n]):
            held = held_as(name, source.infos)
            if source.infos.get(held) != found.infos[name]:
                raise BadFile(f"the delta and the kept header of {path.name} differ on {name!r}")
            nbytes = found.infos[name].nbytes
            for start in range(0, nbytes, CHUNK):
                part = buffer[: min(CHUNK, nbytes - start)]
                source.read(held, start, part)
                file.write(part, found.offsets[name] + start)
            if progress:
                progress(name, nbytes)


def _prove(
    home: Home, record: TaskRecord, layout: Layout, new: ModelTable, folder: Path, out: Path
) -> RestoreProof:
    """Read back what was written; raise BadFile unless it is what was added."""
    proofs = []
    written: dict[str, str] = {}
    infos: dict[str, header.TensorInfo] = {}
    for file, was in layout.weights.items():
        _, digest = file_digest(folder / file, home.files)
        proofs.append(FileProof(file, was.size, was.blake3, digest))
        model = Checkpoint.open(folder / file, home.files, tied_copies=True)
        infos.update(model.infos)
        written.update(model.digests())
        model.close()
    for name in sorted(written):
        held = held_as(name, new.infos)
        if held != name:  # a tied copy, which the table of the model leaves out
            if written[name] != new.digests[held]:
                raise _differs(record, f"the tensor {name!r}", new.digests[held], written[name])
            del infos[name], written[name]
    table = ModelTable(infos, written)
    for name in sorted({*new.digests, *written}):
        if new.digests.get(name) != written.get(name):
            raise _differs(record, f"the tensor {name!r}", new.digests.get(name), written.get(name))
    for proof in proofs:
        if proof.added != proof.written:
            raise _differs(record, f"the file {proof.name}", proof.added, proof.written)
    return RestoreProof(
        record.name, out, new.fingerprint, table.fingerprint, proofs, sorted(layout.beside)
    )


def _differs(record: TaskRecord, what: str, added: str | None, written: str | None) -> BadFile:
    return BadFile(
        f"{what} would not be restored as it was added: nothing was written",
        where=str(record.folder),
        expected=f"blake3 {added[:16]}" if added else "no such tensor",
        got=f"blake3 {written[:16]}" if written else "no such tensor",
        remedy="deltakit verify --read-data shows which stored file is damaged",
    )
