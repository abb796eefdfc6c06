"""The store's small files: strict JSON that says its format first and carries its own digest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import msgspec

from deltakit.errors import BadFile, DeltakitError
from deltakit.tensors.digest import bytes_digest

FORMAT = 1
MOST_BYTES = 1 << 30

DATA_NAME = r"^(delta|adapter|importance|checkpoint)-[0-9a-f]{64}\.safetensors$"
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Short = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
DataName = Annotated[str, msgspec.Meta(pattern=DATA_NAME)]
Size = Annotated[int, msgspec.Meta(ge=0)]
Role = Literal["add", "replace", "adapter"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a manifest: what is not in its definition is an error."""


class StoredFile(_Strict, frozen=True):
    """An immutable file: its size, its blake3, and the first 16 digits of each tensor's.

    The tensors' digests say which tensor is bad in a file whose own digest is wrong.
    """

    size: Size
    blake3: Digest
    tensors: dict[str, Short]


class Revision(_Strict, frozen=True):
    """One state of a task: what it was made of, and the state before it.

    base, base_fingerprint: null for an adapter that was added without its base. density: null for
    an adapter, whose delta is never spread out.
    """

    parent: Short | None
    created: str
    reason: Literal["add", "importance"]
    base: str | None
    base_fingerprint: Digest | None
    role: Role
    density: float | None
    exact: bool
    model_nbytes: Size
    delta: DataName
    importance: DataName | None
    checkpoint: DataName | None
    provenance: dict[str, str]

    @property
    def id(self) -> str:
        """The first 16 digits of the blake3 of this record, its parent included."""
        return bytes_digest(msgspec.json.encode(self, order="deterministic"))[:16]

    @property
    def names(self) -> list[str]:
        """The files this revision refers to."""
        return [n for n in (self.delta, self.importance, self.checkpoint) if n is not None]


class TaskManifest(_Strict, frozen=True):
    """task.json: a task's revisions, oldest first, and every file they refer to."""

    format: int
    task: str
    revisions: Annotated[list[Revision], msgspec.Meta(min_length=1)]
    files: dict[DataName, StoredFile]
    digest: str = ""

    @property
    def current(self) -> Revision:
        return self.revisions[-1]

    def check(self) -> None:
        """Raise BadFile unless revisions follow each other and refer to the files listed."""
        parent = None
        for revision in self.revisions:
            if revision.parent != parent:
                raise BadFile("the revisions do not follow each other")
            parent = revision.id
        if {n for r in self.revisions for n in r.names} != set(self.files):
            raise BadFile("the revisions do not refer to the files listed")
        for name, file in self.files.items():
            if file.blake3 not in name:
                raise BadFile(f"{name} is not named for its content")


class BaseManifest(_Strict, frozen=True):
    """bases/<name>.json: where a base model lies, what it is, and what its files looked like."""

    format: int
    base: str
    path: str
    created: str
    fingerprint: Digest
    tensors: dict[str, tuple[str, tuple[Size, ...], Digest]]
    files: list[tuple[str, Size, int]]  # name, bytes, mtime in ns
    digest: str = ""

    def check(self) -> None:
        """A base's table is checked against its fingerprint where it is used."""


class StoreManifest(_Strict, frozen=True):
    """format.json: the store's format, read before anything else."""

    format: int
    digest: str = ""

    def check(self) -> None:
        """There is nothing but the format."""


class _Format(msgspec.Struct):
    format: int


M = TypeVar("M", TaskManifest, BaseManifest, StoreManifest)


def encode(manifest: M) -> bytes:
    """Return the bytes of a manifest, its digest filled in; equal manifests give equal bytes."""
    bare = msgspec.structs.replace(manifest, digest="")
    digest = bytes_digest(msgspec.json.encode(bare, order="deterministic"))
    whole = msgspec.structs.replace(manifest, digest=digest)
    return msgspec.json.encode(whole, order="deterministic") + b"\n"


def decode(raw: bytes, kind: type[M], where: str) -> M:
    """Return the manifest some bytes hold.

    Raises BadFile for a newer format (before anything else is looked at), for bytes that are not
    strictly such a manifest, and for any byte that is not as it was written.
    """
    try:
        version = msgspec.json.decode(raw, type=_Format).format
        if version > FORMAT:
            raise BadFile(
                "the store was written by a newer deltakit",
                expected=f"format {FORMAT}",
                got=f"format {version}",
                remedy="upgrade deltakit: pip install --upgrade deltakit-merge",
            )
        found = msgspec.json.decode(raw, type=kind)
        if encode(found) != raw:
            raise BadFile("the file was changed after deltakit wrote it")
        found.check()
        return found
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFile(f"malformed: {error}", where=where, remedy=_remedy(kind)) from None
    except DeltakitError as error:
        error.remedy = error.remedy or _remedy(kind)
        raise error.at(where) from None


def _remedy(kind: type[M]) -> str:
    back = "bring the file back from a copy of the store"
    if kind is StoreManifest:  # without which no verb knows what it looks at
        return back
    return f"{back}; deltakit verify tells what else is damaged"


def now() -> str:
    """Return the time in UTC, to the second, as it stands in manifests."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
