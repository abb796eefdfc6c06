"""Deltas for the tests of inspection, given as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deltakit.delta_source import DeltaSource
from deltakit.tensors.source import MemoryTensors, TensorSource


class Given(DeltaSource):
    """A delta whose values are given; parameters not named are zero and must not be asked for."""

    def __init__(self, deltas: Mapping[str, Tensor], label: str = "given") -> None:
        self.label = label
        self._deltas = {name: delta.reshape(-1) for name, delta in deltas.items()}

    def check_base(self, base: TensorSource) -> list[str]:
        return []

    def changes(self, name: str) -> bool:
        return name in self._deltas

    def block_into(self, out: Tensor, name: str, start: int, base: Tensor) -> None:
        out.copy_(self._deltas[name][start : start + len(out)])


def given(*values: float, name: str = "w") -> Given:
    return Given({name: torch.tensor(values)})


def zeros(**sizes: int) -> MemoryTensors:
    return MemoryTensors({name: torch.zeros(size) for name, size in sizes.items()})


def random_tasks(count: int, shapes: Mapping[str, Sequence[int]], seed: int = 0) -> list[Given]:
    """Sparse deltas of different scale that share some of their supports."""
    generator = torch.Generator().manual_seed(seed)
    tasks = []
    for i in range(count):
        deltas = {}
        for name, shape in shapes.items():
            values = torch.randn(tuple(shape), generator=generator) * 0.01 * (i + 1)
            deltas[name] = values * (torch.rand(tuple(shape), generator=generator) < 0.5)
        tasks.append(Given(deltas, f"task {i}"))
    return tasks
