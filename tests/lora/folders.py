"""Adapter folders written by hand, for tests that need no PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PREFIX = "base_model.model."


def write_folder(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """Write adapter_config.json and tensors, whose names lack PEFT's prefix here."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    named = {PREFIX + name: value.contiguous() for name, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def factors(
    module: str, seed: int, rank: int = 2, outputs: int = 6, inputs: int = 5, **kind: Any
) -> dict[str, torch.Tensor]:
    """Return seeded A and B of a linear module."""
    draws = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, inputs, generator=draws).to(**kind),
        f"{module}.lora_B.weight": torch.randn(outputs, rank, generator=draws).to(**kind),
    }


def delta(tensors: Mapping[str, torch.Tensor], module: str, scaling: float) -> torch.Tensor:
    """Return scaling * B A in float64."""
    a, b = (tensors[f"{module}.lora_{half}.weight"].double() for half in "AB")
    return scaling * (b @ a)
