"""A tensor in flat blocks, so that a large one is never in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deltakit.dtypes import torch_dtype
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 20  # entries


def flat_blocks(source: TensorSource, name: str) -> Iterator[Tensor]:
    """Yield consecutive flat blocks of a tensor as it is stored, in memory used again.

    >>> import torch
    >>> from deltakit.tensors.source import MemoryTensors
    >>> list(flat_blocks(MemoryTensors({"x": torch.ones(1, 2)}), "x"))
    [tensor([1., 1.])]
    """
    import torch

    info = source.info(name)
    raw = torch.empty(min(BLOCK, info.numel) * torch_dtype(info.dtype).itemsize, dtype=torch.uint8)
    for start in range(0, info.numel, BLOCK):
        yield source.block(name, start, min(start + BLOCK, info.numel), raw)
