"""open: anything with weights, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deltakit.delta import Delta
from deltakit.errors import BadFile
from deltakit.importance import ImportanceMap
from deltakit.lora import is_adapter, open_adapter
from deltakit.lora.adapter import Adapter
from deltakit.mask import Mask
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.reader import SafetensorsFile

_KINDS: dict[str, Callable[[Path], Delta | ImportanceMap | Mask]] = {
    "delta": Delta.open,
    "importance": ImportanceMap.open,
    "mask": Mask.open,
}


def open_any(path: str | Path) -> Adapter | Checkpoint | Delta | ImportanceMap | Mask:
    """Open a model, an adapter, a safetensors file, or a delta, importance map or mask.

    >>> import deltakit
    >>> model = deltakit.open("./llama")                                 # doctest: +SKIP
    >>> model["lm_head.weight"]                                          # doctest: +SKIP

    What it is, is read from the file's metadata. Headers are read, tensors only when asked for.
    Raises NotFound, or BadFile for what is not safetensors.
    """
    path = Path(path)
    if is_adapter(path):
        return open_adapter(path)
    if path.is_file() and path.suffix == ".safetensors":
        file = SafetensorsFile(path)
        metadata = file.header.metadata
        file.close()
        if "deltakit" in metadata:
            kind = metadata.get("kind", "")
            if kind not in _KINDS:
                raise BadFile(f"unknown kind of artifact {kind!r}", where=str(path))
            return _KINDS[kind](path)
    return Checkpoint.open(path)
