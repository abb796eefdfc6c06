"""The index of a sharded checkpoint: which file holds which tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, NotFound
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.header import unique_keys

INDEX_NAME = "model.safetensors.index.json"
MOST_INDEX_BYTES = 64_000_000


def read_json(path: Path, files: Files = LOCAL, most: int = MOST_INDEX_BYTES) -> Any:
    """Return the content of a JSON file; one that is not JSON is refused with its path."""
    raw = read_whole(path, files, most)
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except BadFile as error:
        raise error.at(str(path)) from None
    except (ValueError, RecursionError) as error:
        raise BadFile(f"not valid JSON: {error}", where=str(path)) from None


def read_index(path: Path, files: Files = LOCAL) -> dict[str, str]:
    """Return the weight map of an index file: tensor name -> shard's file name.

    Raises BadFile for a shard name that is not one path component ending in `.safetensors`.
    """
    table = read_json(path, files)
    weights = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise BadFile("the index has no weight_map", where=str(path))
    for name, shard in weights.items():
        plain = isinstance(shard, str) and "/" not in shard and "\\" not in shard
        if not plain or "\0" in shard or not shard.endswith(".safetensors"):
            raise BadFile(
                f"the index puts {name!r} in {shard!r}",
                where=str(path),
                expected="the name of a .safetensors file in the same folder",
            )
    return weights


def check_link(path: Path, root: Path) -> Path:
    """Return `path` if it lies under `root` or links into the blobs of the same hub cache."""
    try:
        root, target = root.resolve(), path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # too long a name, half a surrogate, a loop
        raise NotFound(
            "a file is missing", where=str(path), remedy="download the model again"
        ) from None
    in_hub_cache = root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs"
    if not target.is_relative_to(root) and not in_hub_cache:
        raise BadFile(
            "a link leads out of the model's folder",
            where=str(path),
            got=str(target),
            remedy="copy the file into the folder",
        )
    return path


def index_bytes(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """Return an index file as transformers writes it."""
    table = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(table, indent=2) + "\n").encode()
