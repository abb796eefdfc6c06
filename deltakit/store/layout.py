"""What a lossless task keeps beside its delta: all that makes up the original folder but values.

One safetensors file of bytes (U8): `weights/<file>` holds the first bytes of each weight file
(length and header, verbatim), `beside/<path>` a whole config, index or tokenizer file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deltakit.errors import BadFile, DeltakitError
from deltakit.provenance import FORMAT, check_kind, parse, render
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import file_digest
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.index import INDEX_NAME, check_link
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.sidecars import sidecars
from deltakit.tensors.writer import SafetensorsWriter

KIND = "checkpoint"
WEIGHTS, BESIDE = "weights/", "beside/"
CARD_NAME = "README.md"


@dataclass(frozen=True)
class WeightFile:
    """A weight file as it was: size, blake3, and its first bytes up to the data."""

    size: int
    blake3: str
    prefix: bytes


@dataclass(frozen=True)
class Layout:
    """A checkpoint folder without its values: weight files by name, other files by path."""

    weights: dict[str, WeightFile]
    beside: dict[str, bytes]

    @classmethod
    def of(cls, model: Checkpoint, folder: Path, files: Files = LOCAL) -> Layout:
        """Record the weight files, and what lies beside them in the folder; reads all bytes."""
        weights = {}
        for shard in model.shards:
            size, digest = file_digest(shard.path, files)
            weights[shard.path.name] = WeightFile(size, digest, shard.prefix())
        return cls(
            weights, {p.as_posix(): read_whole(folder / p, files) for p in _beside(model, folder)}
        )

    def save(self, path: Path, task: str, files: Files = LOCAL) -> None:
        """Write the layout as one file."""
        parts = {WEIGHTS + name: file.prefix for name, file in self.weights.items()}
        parts |= {BESIDE + name: data for name, data in self.beside.items()}
        metadata = {
            "deltakit": str(FORMAT),
            "kind": KIND,
            "task": task,
            "weights": render({n: (f.size, f.blake3) for n, f in self.weights.items()}),
        }
        infos = {name: TensorInfo("U8", (len(data),)) for name, data in parts.items()}
        with SafetensorsWriter(path, infos, metadata, files=files) as writer:
            for name, data in parts.items():
                writer.write(name, 0, data)

    @classmethod
    def open(cls, path: Path, files: Files = LOCAL) -> Layout:
        """Read a layout; raises BadFile for one that would write outside of its folder."""
        file = SafetensorsFile(path, files)
        try:
            check_kind(file.header.metadata, KIND)
            rows = parse(file.header.metadata, "weights", dict[str, tuple[int, str]])
            weights, beside = {}, {}
            for name, info in file.header.infos.items():
                data = bytearray(info.nbytes)
                file.read(name, 0, memoryview(data))
                if name.startswith(WEIGHTS):
                    plain = _plain(name.removeprefix(WEIGHTS))
                    if plain not in rows:
                        raise BadFile(f"the metadata lacks the weight file {plain!r}")
                    weights[plain] = WeightFile(rows[plain][0], rows[plain][1], bytes(data))
                elif name.startswith(BESIDE):
                    beside[_plain(name.removeprefix(BESIDE))] = bytes(data)
                else:
                    raise BadFile(f"{name!r} is no part of a checkpoint's layout")
            if set(weights) != set(rows):
                raise BadFile("a weight file's first bytes are missing")
            return cls(weights, beside)
        except DeltakitError as error:
            raise error.at(str(path)) from None
        finally:
            file.close()


def left_out(model: Checkpoint, folder: Path) -> list[str]:
    """Return the files at the top of a folder that a layout does not keep."""
    if not folder.is_dir():
        return []
    beside = {path.as_posix() for path in _beside(model, folder)}
    kept = beside | {shard.path.name for shard in model.shards}
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.name not in kept)


def _beside(model: Checkpoint, folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []  # a lone file's folder may hold anything
    weights = {shard.path.name for shard in model.shards}
    more = [Path(name) for name in (INDEX_NAME, CARD_NAME) if (folder / name).is_file()]
    found = [check_link(folder / path, folder).relative_to(folder) for path in more]
    return [p for p in [*found, *sidecars(folder)] if p.as_posix() not in weights]


def _plain(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or parts[0] == "/" or {".", ".."} & set(parts):
        raise BadFile(f"{path!r} is not a path within a folder")
    return path
