"""Small model folders as transformers writes them, for tests that need one on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG = {"model_type": "bert", "hidden_size": 4}


def write_model(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write config.json and the tensors, in one file or dealt to `shards` files with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(tensors)
    write_shards(folder, [{n: tensors[n] for n in names[i::shards]} for i in range(shards)])
    return folder


def write_shards(folder: Path, shards: Sequence[Mapping[str, torch.Tensor]]) -> Path:
    """Write the given shards and their index into an existing folder; return the index's path."""
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(dict(tensors), folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    return write_index(folder, weight_map)


def write_index(folder: Path, weight_map: Mapping[str, Any]) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return path


def some_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """A little of everything: matrices, a vector, a scalar, an empty one, integers and bools."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(16, 4, generator=generator).to(torch.bfloat16),
        "layer.0.weight": torch.randn(4, 4, generator=generator),
        "layer.0.bias": torch.randn(4, generator=generator).to(torch.float16),
        "layer.0.scale": torch.randn((), generator=generator),
        "layer.0.empty": torch.zeros(0, 3),
        "position_ids": torch.arange(8),
        "mask": torch.tensor([True, False, True]),
    }
