"""What an artifact says of itself in its `__metadata__`: flat strings, checked when read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from deltakit.errors import BadFile, WrongBase
from deltakit.tensors.digest import whole_fingerprint
from deltakit.tensors.header import TensorInfo, check_info

FORMAT = 1


def check_kind(metadata: Mapping[str, str], kind: str) -> None:
    """Raise BadFile unless the metadata is that of a deltakit artifact of this kind and format."""
    version = metadata.get("deltakit")
    if version is None:
        raise BadFile("not a deltakit artifact: its metadata has no format version")
    if not version.isdecimal() or len(version) > 9:
        raise BadFile(f"unreadable format version {version[:20]!r}")
    if int(version) > FORMAT:
        raise BadFile(
            "the artifact was written by a newer deltakit",
            expected=f"format {FORMAT} or older",
            got=f"format {version}",
            remedy="upgrade deltakit",
        )
    if metadata.get("kind") != kind:
        raise BadFile("another kind of artifact", expected=kind, got=f"{metadata.get('kind')!r}")


def parse(metadata: Mapping[str, str], key: str, kind: Any) -> Any:
    """Return a metadata string parsed as JSON of type `kind`; anything else is BadFile."""
    try:
        return msgspec.json.decode(metadata[key], type=kind)
    except KeyError:
        raise BadFile(f"the metadata lacks {key!r}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadFile(f"the metadata's {key!r} is malformed: {error}") from None


def render(value: Any) -> str:
    """Return a metadata string that `parse` reads back; equal values give equal strings."""
    return msgspec.json.encode(value, order="deterministic").decode()


@dataclass(frozen=True)
class ModelTable:
    """The identity of a model: dtype, shape and digest of every tensor, and one fingerprint.

    It lets a wrong base be refused with the name of the first tensor that differs.
    """

    infos: Mapping[str, TensorInfo]
    digests: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        return whole_fingerprint(self.infos, self.digests)

    def render(self) -> str:
        """Return the table as a string: {name: [dtype, shape, digest]}."""
        table = {
            name: [info.dtype, list(info.shape), self.digests[name]]
            for name, info in self.infos.items()
        }
        return render(table)

    @classmethod
    def parse(cls, metadata: Mapping[str, str], key: str) -> ModelTable:
        rows = parse(metadata, key, dict[str, tuple[str, list[int], str]])
        infos = {
            name: check_info(dtype, shape, f"tensor {name!r} of {key}")
            for name, (dtype, shape, _) in rows.items()
        }
        return cls(infos, {name: row[2] for name, row in rows.items()})

    def check_infos(self, other: Mapping[str, TensorInfo], artifact: str, model: str) -> None:
        """Raise WrongBase naming the first tensor whose dtype or shape is not this table's."""
        for name in sorted({*self.infos, *other}):
            mine, theirs = self.infos.get(name), other.get(name)
            if mine != theirs:
                raise WrongBase(
                    f"{artifact} was made against another base: {name!r} differs",
                    where=model,
                    expected=_describe(mine),
                    got=_describe(theirs),
                    remedy="give the base it was made against",
                )

    def check_same(self, other: ModelTable, artifact: str, model: str) -> None:
        """Raise WrongBase naming the first tensor in which `other` differs from this table."""
        self.check_infos(other.infos, artifact, model)
        for name in sorted(self.infos):
            if self.digests[name] != other.digests[name]:
                raise WrongBase(
                    f"{artifact} was made against another base: the values of {name!r} differ",
                    where=model,
                    expected=f"blake3 {self.digests[name][:16]}",
                    got=f"blake3 {other.digests[name][:16]}",
                    remedy="give the base it was made against",
                )


def _describe(info: TensorInfo | None) -> str:
    return "no such tensor" if info is None else f"{info.dtype} {list(info.shape)}"
