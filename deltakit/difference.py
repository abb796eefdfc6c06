"""What a delta stores of each parameter: which entries, and with what value."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.bits import differ
from deltakit.dtypes import check_held, itemsize
from deltakit.tensors.codec import Codec, pack
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1 << 20  # entries; a multiple of 8, so that blocks of bits begin on a byte


@dataclass(frozen=True)
class Count:
    """How many entries of a block are stored, and how many where a seed tells which, if it may."""

    stored: int
    drawn: int | None = None


@dataclass(frozen=True)
class Part:
    """What is stored of a block: values one after the other, and a bit (uint8) for each entry.

    The bits tell which entries are stored under a bitmask or indices; other codecs do without.
    """

    values: np.ndarray
    bits: np.ndarray


class Difference(ABC):
    """Which entries of each parameter are stored, and with what value.

    Several threads may ask; what one is given is valid until it asks again.
    """

    exact = True  # whether all values asked for so far are stored without rounding

    def __init__(self) -> None:
        self._own = threading.local()

    @property
    def computes(self) -> bool:
        """Whether torch computes any of it."""
        return False

    @abstractmethod
    def infos(self) -> dict[str, TensorInfo]:
        """Return the parameters looked at, with the dtype their values are stored in."""

    def look(self, name: str) -> None:
        """Find ahead what must be known of a whole parameter before its blocks are."""

    @abstractmethod
    def count(self, name: str, start: int, stop: int) -> Count:
        """Return how many entries of a flat range are stored."""

    @abstractmethod
    def part(self, name: str, start: int, stop: int, codec: Codec) -> Part:
        """Return what a codec stores of a flat range."""

    def _room(self, purpose: str, entries: int) -> np.ndarray:
        """Return memory for a purpose, uint8, 8 bytes an entry: of a block this thread's own."""
        import numpy as np

        if entries > BLOCK:  # a whole tensor: not kept
            return np.empty(8 * entries, dtype=np.uint8)
        room: np.ndarray | None = getattr(self._own, purpose, None)
        if room is None or len(room) < 8 * entries:
            room = np.empty(8 * entries, dtype=np.uint8)
            setattr(self._own, purpose, room)
        return room


class ReplaceDifference(Difference):
    """The fine-tuned model's own values, where a byte of them differs from the base's."""

    def __init__(self, base: TensorSource, tuned: TensorSource) -> None:
        super().__init__()
        self._base, self._tuned = base, tuned

    def infos(self) -> dict[str, TensorInfo]:
        for name, info in self._tuned.infos.items():
            check_held(info.dtype, f"{self._tuned.label}, tensor {name!r}")
        return dict(sorted(self._tuned.infos.items()))

    def count(self, name: str, start: int, stop: int) -> Count:
        if not self._is_alike(name):
            return Count(stop - start)
        ours, theirs = (self._read(model, name, start, stop) for model in ("tuned", "base"))
        size = self._size(name)
        found = differ(ours, theirs, size)
        return Count(int(_unequal(ours, theirs, size).sum()) if found is None else found)

    def part(self, name: str, start: int, stop: int, codec: Codec) -> Part:
        import numpy as np

        ours = self._read("tuned", name, start, stop)
        bits = np.full(-(-(stop - start) // 8), 0xFF, dtype=np.uint8)
        if codec == "dense" or not self._is_alike(name):  # also those that are as in the base
            return Part(ours, bits)
        theirs, size = self._read("base", name, start, stop), self._size(name)
        values = self._room("values", stop - start)
        found = differ(ours, theirs, size, values, bits)
        if found is None:
            kept = _unequal(ours, theirs, size)
            return Part(ours.view(f"u{size}")[kept], pack(kept))
        return Part(values[: found * size], bits)

    def _is_alike(self, name: str) -> bool:
        return self._base.infos.get(name) == self._tuned.infos[name]

    def _size(self, name: str) -> int:
        return itemsize(self._tuned.infos[name].dtype)

    def _read(
        self, model: Literal["tuned", "base"], name: str, start: int, stop: int
    ) -> np.ndarray:
        """Return the bytes of a flat range of a model."""
        size = self._size(name)
        read = self._room(model, stop - start)[: (stop - start) * size]
        source = self._tuned if model == "tuned" else self._base
        source.read(name, start * size, memoryview(read))
        return read


def _unequal(ours: np.ndarray, theirs: np.ndarray, size: int) -> np.ndarray:
    unequal: np.ndarray = ours.view(f"u{size}") != theirs.view(f"u{size}")
    return unequal
