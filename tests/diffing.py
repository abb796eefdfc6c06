"""Pairs of models, and what taking their difference gives."""

from collections.abc import Mapping
from pathlib import Path

import torch

from deltakit.delta import Delta
from deltakit.diff import write_add
from deltakit.tensors.source import MemoryTensors

Tensors = Mapping[str, torch.Tensor]


def add(path: Path, base: Tensors, tuned: Tensors, **options: object) -> Delta:
    path.unlink(missing_ok=True)
    write_add(path, MemoryTensors(base), MemoryTensors(tuned), task="trec", **options)  # type: ignore[arg-type]
    return Delta.open(path)


def blocks(delta: Delta, base: Tensors, name: str) -> torch.Tensor:
    """The delta of a parameter as a merge reads it, in uneven blocks."""
    work = torch.float64 if base[name].dtype == torch.float64 else torch.float32
    flat = base[name].reshape(-1).to(work)
    parts = []
    for start in range(0, len(flat), 37):
        parts.append(torch.full((min(37, len(flat) - start),), 9.0, dtype=work))
        delta.block_into(parts[-1], name, start, flat[start : start + 37])
    return torch.cat(parts) if parts else flat


def pair(dtype: torch.dtype, seed: int = 0, changed: float = 1.0) -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(seed)
    base, tuned = {}, {}
    for name, shape in {"w": (40, 25), "b": (7,), "s": (), "e": (0, 3), "same": (5,)}.items():
        base[name] = torch.randn(shape, generator=generator).to(dtype)
        step = torch.randn(shape, generator=generator) * 0.01
        step *= torch.rand(shape, generator=generator) < changed
        tuned[name] = base[name] if name == "same" else (base[name].float() + step).to(dtype)
    return base, tuned


FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


def file_bytes(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
