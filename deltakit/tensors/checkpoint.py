"""A model on disk: a folder as transformers writes it, or one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, NotFound, some
from deltakit.tensors import tied
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.index import INDEX_NAME, check_link, read_index, read_json
from deltakit.tensors.reader import SafetensorsFile, refuse_pickle
from deltakit.tensors.sidecars import ADAPTER_CONFIG
from deltakit.tensors.source import TensorSource


class Checkpoint(TensorSource):
    """A model's tensors by name, whatever files they lie in.

    >>> model = Checkpoint.open("./llama")                               # doctest: +SKIP
    >>> model.infos["lm_head.weight"].shape                              # doctest: +SKIP
    (32000, 2048)

    Raises NotFound for a missing path, BadFile for a file that is not strictly what safetensors
    says, for pickles, and for an index that does not match its shards.
    """

    def __init__(self, path: Path, shards: list[SafetensorsFile], files: Files = LOCAL) -> None:
        self.path = path
        self.label = str(path)
        self.shards = shards
        self._files = files
        self._home: dict[str, SafetensorsFile] = {}
        self._infos: dict[str, TensorInfo] = {}
        for shard in shards:
            for name, info in shard.header.infos.items():
                if name in self._home:
                    raise BadFile(
                        f"the tensor {name!r} is in two files",
                        where=str(path),
                        got=f"{self._home[name].path.name} and {shard.path.name}",
                    )
                self._home[name] = shard
                self._infos[name] = info

    @classmethod
    def open(
        cls, path: str | Path, files: Files = LOCAL, *, tied_copies: bool = False
    ) -> Checkpoint:
        """Open a model folder or a single .safetensors file; reads headers only.

        A tied weight that is stored twice is seen once, under the embedding's name, unless
        `tied_copies` asks for every tensor that lies in the files.
        """
        model = cls._open(Path(path), files)
        if not tied_copies:
            for name in tied.tied_copies(model, model.config()):
                del model._infos[name]
        return model

    @classmethod
    def _open(cls, path: Path, files: Files) -> Checkpoint:
        if not path.exists():
            raise NotFound("no such model", where=str(path), remedy="check the path")
        if not path.is_dir():
            return cls(path, [SafetensorsFile(path, files)], files)  # a link given by name is meant
        index, single = path / INDEX_NAME, path / "model.safetensors"
        if index.exists() and single.exists():
            raise BadFile(
                "the folder holds both a sharded and an unsharded checkpoint",
                where=str(path),
                remedy=f"delete the stale one of {INDEX_NAME} and model.safetensors",
            )
        if index.exists():
            return cls._open_sharded(path, index, files)
        file = single if single.exists() else _lone_file(path)
        return cls(path, [SafetensorsFile(check_link(file, path), files)], files)

    @classmethod
    def _open_sharded(cls, path: Path, index: Path, files: Files) -> Checkpoint:
        claimed = read_index(check_link(index, path), files)
        shards = [
            SafetensorsFile(check_link(path / shard, path), files)
            for shard in sorted(set(claimed.values()))
        ]
        model = cls(path, shards, files)
        missing = {
            n for n, s in claimed.items() if n not in model._home or model._home[n].path.name != s
        }
        extra = set(model._home) - set(claimed)
        if missing or extra:
            raise BadFile(
                "the index does not match the shards",
                where=str(index),
                expected=f"in their shard: {some(missing)}" if missing else None,
                got=f"not in the index: {some(extra)}" if extra else None,
                remedy="download the model again",
            )
        return model

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @property
    def folder(self) -> Path:
        """The folder that holds the config and tokenizer."""
        return self.path if self.path.is_dir() else self.path.parent

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        self._home[name].read(name, start, buffer)

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        return self._home[name].place(name, start)

    @property
    def files(self) -> list[SafetensorsFile]:
        return self.shards

    def config(self) -> dict[str, Any]:
        """Return config.json, or an empty dict where a single file has none beside it."""
        path = self.folder / "config.json"
        if not path.exists():
            return {}
        table = read_json(check_link(path, self.folder), self._files)
        if not isinstance(table, dict):
            raise BadFile("config.json is not a JSON object", where=str(path))
        return table

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


def _lone_file(folder: Path) -> Path:
    """Return the only .safetensors file of a folder without model.safetensors."""
    if (folder / ADAPTER_CONFIG).exists():
        raise BadFile(
            "this is a LoRA adapter, and a model is asked for",
            where=str(folder),
            expected="a full model",
            remedy="make one: deltakit lora bake ADAPTER --base PATH --out DIR",
        )
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if not found:
        for file in sorted(folder.iterdir()):
            refuse_pickle(file)
    raise BadFile(
        "no single checkpoint in the folder",
        where=str(folder),
        expected=f"model.safetensors or {INDEX_NAME}",
        got=some([p.name for p in found]) or "no .safetensors file",
    )
