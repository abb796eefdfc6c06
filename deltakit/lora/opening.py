"""Opening an adapter, whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deltakit.errors import BadFile, BadValue, NotFound
from deltakit.lora.adapter import Adapter
from deltakit.lora.kohya import is_kohya_file, open_kohya
from deltakit.lora.peft import is_peft_folder, open_peft
from deltakit.lora.union import Member
from deltakit.tensors.files import LOCAL, Files


def is_adapter(path: Path) -> bool:
    """Tell whether a path is a PEFT folder or a kohya file."""
    return is_peft_folder(path) or is_kohya_file(path)


def open_adapter(path: str | Path, files: Files = LOCAL) -> Adapter:
    """Open a PEFT folder or a kohya file; reads headers only.

    Raises NotFound, and BadFile for everything that is not understood, naming it.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound("no such adapter", where=str(path), remedy="check the path")
    if is_peft_folder(path):
        return open_peft(path, files)
    if is_kohya_file(path):
        return open_kohya(path, files)
    raise BadFile(
        "not a LoRA adapter",
        where=str(path),
        expected="a folder with adapter_config.json, or a kohya .safetensors file",
    )


def open_members(names: Sequence[str], weights: Sequence[float] = ()) -> list[Member]:
    """Open adapters given as `PATH` or `label=PATH`, each with its weight, 1 unless told.

    An adapter is called as its folder is, or its file, unless it has a label.
    """
    if not names:
        raise BadValue("no adapter is named")
    if weights and len(weights) != len(names):
        raise BadValue(
            "a weight goes with each adapter",
            expected=f"{len(names)} weights",
            got=f"{len(weights)}",
        )
    members = []
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        label, equals, rest = name.partition("=")
        named = bool(equals) and os.sep not in label
        path = Path(rest if named else name)
        adapter = open_adapter(path)
        default = path.resolve().name if path.is_dir() else path.stem
        members.append(Member(label if named else default, adapter, weight))
    return members
