"""Opening an adapter, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

from deltakit.errors import BadFile, NotFound
from deltakit.lora.adapter import Adapter
from deltakit.lora.kohya import is_kohya_file, open_kohya
from deltakit.lora.peft import is_peft_folder, open_peft
from deltakit.lora.stored import is_stored_adapter, open_stored
from deltakit.tensors.files import LOCAL, Files


def is_adapter(path: Path) -> bool:
    """Tell whether a path is a PEFT folder, a kohya file or a store's adapter."""
    return is_peft_folder(path) or is_stored_adapter(path) or is_kohya_file(path)


def open_adapter(path: str | Path, files: Files = LOCAL) -> Adapter:
    """Open a PEFT folder, a kohya file or a store's adapter; reads headers only.

    Raises NotFound, and BadFile for everything that is not understood, naming it.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound("no such adapter", where=str(path), remedy="check the path")
    if is_peft_folder(path):
        return open_peft(path, files)
    if is_stored_adapter(path):
        return open_stored(path, files)
    if is_kohya_file(path):
        return open_kohya(path, files)
    raise BadFile(
        "not a LoRA adapter",
        where=str(path),
        expected="a folder with adapter_config.json, or a kohya .safetensors file",
    )
