"""What a delta stores of each parameter: which entries, and with what value."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.dtypes import itemsize
from deltakit.stored import as_tensor
from deltakit.tensors.codec import Codec, pack
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

BLOCK = 1 << 20  # entries; a multiple of 8, so that blocks of bits begin on a byte


@dataclass(frozen=True)
class Count:
    """How many entries of a block are stored, and how many where a seed tells which, if it may."""

    stored: int
    drawn: int | None = None


@dataclass(frozen=True)
class Part:
    """What is stored of a block: `values` one after the other, and `bits` (uint8) of each entry."""

    values: np.ndarray
    bits: np.ndarray


class Difference(ABC):
    """Which entries of each parameter are stored, and with what value.

    Several threads may ask; what one is given is valid until it asks again.
    """

    exact = True  # whether all values asked for so far are stored without rounding
    absent_is_zero: bool  # what an entry not stored means; else it is as in the base

    def __init__(self) -> None:
        self._own = threading.local()

    @abstractmethod
    def infos(self) -> dict[str, TensorInfo]:
        """Return the parameters looked at, with the dtype their values are stored in."""

    @abstractmethod
    def _block(
        self, name: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        """Return (entries to store, entries the seed keeps or None, values) of a flat range."""

    def look(self, name: str) -> None:
        """Find ahead what must be known of a whole parameter before its blocks are."""

    def count(self, name: str, start: int, stop: int) -> Count:
        """Return how many entries of a flat range are stored."""
        kept, seed, _ = self._block(name, start, stop)
        return Count(int(kept.sum()), None if seed is None else int(seed.sum()))

    def part(self, name: str, start: int, stop: int, codec: Codec) -> Part:
        """Return what a codec stores of a flat range."""
        import torch

        kept, seed, values = self._block(name, start, stop)
        flat = values.view(torch.uint8).numpy().view(f"u{values.element_size()}")
        if codec == "dense":
            # Dense holds every entry: of a replace delta also those that are as in the base.
            return Part(flat * kept if self.absent_is_zero else flat, pack(kept))
        return Part(flat[seed if codec == "seed" and seed is not None else kept], pack(kept))

    def _room(self, purpose: str, entries: int) -> np.ndarray:
        """Return this thread's memory for a purpose, used again: uint8, 8 bytes an entry."""
        import numpy as np

        room: np.ndarray | None = getattr(self._own, purpose, None)
        if room is None or len(room) < 8 * entries:
            room = np.empty(8 * entries, dtype=np.uint8)
            setattr(self._own, purpose, room)
        return room


class ReplaceDifference(Difference):
    """The fine-tuned model's own values, where a byte of them differs from the base's."""

    absent_is_zero = False

    def __init__(self, base: TensorSource, tuned: TensorSource) -> None:
        super().__init__()
        self._base, self._tuned = base, tuned

    def infos(self) -> dict[str, TensorInfo]:
        return dict(sorted(self._tuned.infos.items()))

    def _block(
        self, name: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        import numpy as np

        count = stop - start
        ours, theirs = self._room("tuned", count), self._room("base", count)
        values = self._tuned.block(name, start, stop, as_tensor(ours))
        if self._base.infos.get(name) != self._tuned.infos[name]:
            return np.ones(count, dtype=np.bool_), None, values
        self._base.block(name, start, stop, as_tensor(theirs))
        size = itemsize(self._tuned.infos[name].dtype)
        one, other = (raw[: count * size].view(f"u{size}") for raw in (ours, theirs))
        return one != other, None, values
