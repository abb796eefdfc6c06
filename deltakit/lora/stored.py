"""An adapter as a store keeps it: one file, tensors unchanged, config in its metadata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from deltakit.errors import BadFile, DeltakitError
from deltakit.lora.adapter import Adapter
from deltakit.lora.config import AdapterConfig
from deltakit.lora.kohya import read_kohya
from deltakit.lora.peft import read_adapter
from deltakit.provenance import FORMAT, ModelTable, check_kind
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.writer import SafetensorsWriter

KIND = "adapter"
CHUNK = 4 << 20


def is_stored_adapter(path: Path) -> bool:
    """Tell whether a path is an adapter's file as `write_stored` writes it; reads its header."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    file = SafetensorsFile(path)
    file.close()
    return "deltakit" in file.header.metadata and file.header.metadata.get("kind") == KIND


def write_stored(
    path: Path, adapter: Adapter, task: str, base: ModelTable | None = None, files: Files = LOCAL
) -> None:
    """Write an adapter as one file: its tensors keep their names, bytes and dtypes.

    base: what it is tied to. A later use with another base is refused.
    """
    metadata = {"deltakit": str(FORMAT), "kind": KIND, "task": task}
    if not adapter.flat:
        metadata["config"] = json.dumps(adapter.config.fields, sort_keys=True)
    if base is not None:
        metadata["base_tensors"] = base.render()
    infos = adapter.source.infos
    with SafetensorsWriter(path, infos, metadata, files=files) as writer:
        buffer = memoryview(bytearray(CHUNK))
        for name, info in infos.items():
            for start in range(0, info.nbytes, CHUNK):
                part = buffer[: min(CHUNK, info.nbytes - start)]
                adapter.source.read(name, start, part)
                writer.write(name, start, part)


def open_stored(path: Path, files: Files = LOCAL) -> Adapter:
    """Open an adapter's file; raises what opening the folder or file it came from would."""
    file = SafetensorsFile(path, files)
    source = Checkpoint(path, [file], files)
    try:
        metadata = file.header.metadata
        check_kind(metadata, KIND)
        config = _config(metadata["config"]) if "config" in metadata else None
        found = read_kohya(path, source) if config is None else read_adapter(path, source, config)
        tied = "base_tensors" in metadata
        base = ModelTable.parse(metadata, "base_tensors") if tied else None
        return dataclasses.replace(found, base=base)
    except DeltakitError as error:
        source.close()
        raise error.at(str(path)) from None


def _config(text: str) -> AdapterConfig:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"the adapter's config is not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise BadFile("the adapter's config is not a JSON object")
    return AdapterConfig.of(table)
