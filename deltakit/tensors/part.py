"""Part: some tensors of a source, seen as a source."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from deltakit.tensors.reader import SafetensorsFile


class Part(TensorSource):
    """A source without the tensors of some names.

    >>> import torch
    >>> from deltakit.tensors.source import MemoryTensors
    >>> whole = MemoryTensors({"x": torch.ones(2), "head": torch.ones(3)})
    >>> list(Part(whole, without={"head"}))
    ['x']
    """

    def __init__(self, whole: TensorSource, without: Collection[str]) -> None:
        self.whole, self.label = whole, whole.label
        self._infos = {n: info for n, info in whole.infos.items() if n not in without}

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        self.whole.read(name, start, buffer)

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        return self.whole.place(name, start)

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self.whole.files
