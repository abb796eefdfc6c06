"""Llama-shaped models with made-up weights, seeded tensor by tensor, kept in a cache folder."""

from __future__ import annotations

import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deltakit.engine.shards import make_shards
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.index import INDEX_NAME, index_bytes
from deltakit.tensors.writer import SafetensorsWriter

BLOCK = 1 << 20  # entries in memory at a time, of each thread
MADE = 2  # counts the ways these weights were made; part of the folder's name


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-shaped model in bf16."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000
    tied: bool = False
    shard_bytes: int = 5_000_000_000

    def infos(self) -> dict[str, TensorInfo]:
        """Return its tensors."""
        hidden, wide = self.hidden, self.intermediate
        kv = hidden // self.heads * self.kv_heads
        sizes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden),
            "model.norm.weight": (hidden,),
        }
        if not self.tied:
            sizes["lm_head.weight"] = (self.vocabulary, hidden)
        for layer in range(self.layers):
            sizes |= {
                f"model.layers.{layer}.{part}.weight": shape
                for part, shape in {
                    "self_attn.q_proj": (hidden, hidden),
                    "self_attn.k_proj": (kv, hidden),
                    "self_attn.v_proj": (kv, hidden),
                    "self_attn.o_proj": (hidden, hidden),
                    "mlp.gate_proj": (wide, hidden),
                    "mlp.up_proj": (wide, hidden),
                    "mlp.down_proj": (hidden, wide),
                    "input_layernorm": (hidden,),
                    "post_attention_layernorm": (hidden,),
                }.items()
            }
        return {name: TensorInfo("BF16", shape) for name, shape in sizes.items()}

    def config(self) -> dict[str, object]:
        """Return its config.json, as transformers reads it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "dtype": "bfloat16",
        }


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 64, 128, 2, 4, 2, vocabulary=500, shard_bytes=150_000),
        Shape("100m", 768, 2048, 12, 12, 12, tied=True),
        Shape("1.1b", 2048, 5632, 22, 32, 4, shard_bytes=800_000_000),
    )
}


def models(shape: Shape, tuned: int, cache: Path) -> tuple[Path, list[Path]]:
    """Return a base and `tuned` fine-tunes of it, made on first use below `cache`.

    Half of each fine-tune's entries, chosen at random, are the base's plus N(0, .001). An entry
    depends on the tensor's name and the model's number alone.
    """
    root = folder(shape, cache)
    base = root / "base"
    _make(base, shape, 0, None)
    experts = [root / f"ft-{number}" for number in range(1, tuned + 1)]
    for number, expert in enumerate(experts, 1):
        _make(expert, shape, number, base)
    return base, experts


def folder(shape: Shape, cache: Path) -> Path:
    """Return where the models of a shape lie, and what is made from them."""
    return cache / "synthetic" / f"{shape.name}-v{MADE}"


def _make(target: Path, shape: Shape, number: int, base: Path | None) -> None:
    if target.exists():
        return
    began = time.perf_counter()
    infos = shape.infos()
    shards = make_shards(infos, shape.shard_bytes)
    source = None if base is None else Checkpoint.open(base)
    new = target.with_suffix(".partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    for shard in shards:
        path = new / shard.file_name
        with (
            SafetensorsWriter(path, shard.infos, {"format": "pt"}) as writer,
            ThreadPoolExecutor(2) as pool,
        ):
            for done in [
                pool.submit(_fill, writer, name, info, number, source)
                for name, info in shard.infos.items()
            ]:
                done.result()
    if len(shards) > 1:
        homes = {name: shard.file_name for shard in shards for name in shard.infos}
        total = sum(shard.nbytes for shard in shards)
        (new / INDEX_NAME).write_bytes(index_bytes(homes, total))
    new.rename(target)
    if source is not None:
        source.close()
    print(f"made {target} in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def _fill(
    writer: SafetensorsWriter, name: str, info: TensorInfo, number: int, base: Checkpoint | None
) -> None:
    seed = [number, zlib.crc32(name.encode())]
    draw = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
    for start, count in _blocks(info.numel):
        values = draw.standard_normal(count, dtype=np.float32)
        if base is None:
            values *= np.float32(0.02)
        else:
            values *= np.float32(0.001)
            values *= np.unpackbits(np.frombuffer(draw.bytes(-(-count // 8)), np.uint8))[:count]
            raw = torch.empty(2 * count, dtype=torch.uint8)
            base.read(name, 2 * start, memoryview(raw.numpy()))
            values += raw.view(torch.bfloat16).float().numpy()
        data = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint8).numpy()
        writer.write(name, 2 * start, memoryview(data))


def _blocks(numel: int) -> Iterator[tuple[int, int]]:
    for start in range(0, numel, BLOCK):
        yield start, min(BLOCK, numel - start)
