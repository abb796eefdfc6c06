"""Mosaic: tensors of several sources, under names of their own, seen as one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from deltakit.tensors.reader import SafetensorsFile


class Mosaic(TensorSource):
    """Tensors by name, each of some source and of some name there; nothing is copied.

    >>> import torch
    >>> from deltakit.tensors.source import MemoryTensors
    >>> a, b = MemoryTensors({"h.0": torch.ones(1)}), MemoryTensors({"h.0": torch.zeros(1)})
    >>> stacked = Mosaic({"h.0": (a, "h.0"), "h.1": (b, "h.0"), "h.2": (a, "h.0")}, "a, b")
    >>> [stacked[name].item() for name in stacked]
    [1.0, 0.0, 1.0]
    """

    def __init__(self, places: Mapping[str, tuple[TensorSource, str]], label: str) -> None:
        self.label = label
        self._places = dict(places)
        self._infos = {name: source.infos[there] for name, (source, there) in places.items()}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        source, there = self._places[name]
        source.read(there, start, buffer)

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        source, there = self._places[name]
        return source.place(there, start)

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        sources = {id(source): source for source, _ in self._places.values()}
        return [file for source in sources.values() for file in source.files]
