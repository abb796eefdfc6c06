"""Llama-shaped models with made-up weights, seeded and kept in the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from deltakit.tensors.header import TensorInfo
from deltakit.tensors.new_folder import new_folder
from deltakit.tensors.writer import SafetensorsWriter

CACHE = Path(".cache/deltakit/synthetic")


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-shaped model with tied embeddings, bf16."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    kv: int
    vocabulary: int = 32000

    def infos(self) -> dict[str, TensorInfo]:
        """Return its tensors."""
        hidden, wide = self.hidden, self.intermediate
        sizes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden),
            "model.norm.weight": (hidden,),
        }
        for layer in range(self.layers):
            sizes |= {
                f"model.layers.{layer}.{part}.weight": shape
                for part, shape in {
                    "self_attn.q_proj": (hidden, hidden),
                    "self_attn.k_proj": (self.kv, hidden),
                    "self_attn.v_proj": (self.kv, hidden),
                    "self_attn.o_proj": (hidden, hidden),
                    "mlp.gate_proj": (wide, hidden),
                    "mlp.up_proj": (wide, hidden),
                    "mlp.down_proj": (hidden, wide),
                    "input_layernorm": (hidden,),
                    "post_attention_layernorm": (hidden,),
                }.items()
            }
        return {name: TensorInfo("BF16", shape) for name, shape in sizes.items()}


M100 = Shape("100M", hidden=768, intermediate=2048, layers=12, kv=768)
TINY = Shape("tiny", hidden=64, intermediate=128, layers=2, kv=32, vocabulary=500)


def models(shape: Shape, tuned: int) -> tuple[Path, list[Path]]:
    """Return a base and `tuned` fine-tunes of it, made on first use.

    Half of each fine-tune's entries differ from the base by N(0, .001).
    """
    root = CACHE / shape.name
    base = root / "base"
    _make(base, shape, None)
    experts = [root / f"ft-{number}" for number in range(1, tuned + 1)]
    for number, expert in enumerate(experts, 1):
        _make(expert, shape, number)
    return base, experts


def _make(folder: Path, shape: Shape, expert: int | None) -> None:
    if folder.exists():
        return
    with new_folder(folder) as new:
        (new / "config.json").write_text(json.dumps({"model_type": "llama"}) + "\n")
        infos = shape.infos()
        with SafetensorsWriter(new / "model.safetensors", infos, {"format": "pt"}) as writer:
            for number, (name, info) in enumerate(infos.items()):
                values = _normal(info, number) * 0.02
                if expert is not None:
                    seed = 1000 * expert + number
                    moved = _normal(info, seed) > 0
                    values += _normal(info, seed + 500_000) * 0.001 * moved
                data = values.to(torch.bfloat16).view(torch.uint8).numpy()
                writer.write(name, 0, memoryview(data))


def _normal(info: TensorInfo, seed: int) -> torch.Tensor:
    return torch.randn(info.numel, generator=torch.Generator().manual_seed(seed))
