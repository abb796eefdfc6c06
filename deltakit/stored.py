"""Entries as a file holds them, not read before someone asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class Stored:
    """Flat entries of a tensor in a file, read into `raw` when they are first asked for.

    >>> import torch
    >>> raw = torch.zeros(8, dtype=torch.uint8)
    >>> Stored(torch.float32, 2, raw, lambda: raw.view(torch.float32)).tensor
    tensor([0., 0.])

    `place` is where a kernel may read them itself, a file descriptor and a byte offset; it uses
    `raw` (uint8, room for all entries), and nothing else must meanwhile.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        count: int,
        raw: Tensor,
        read: Callable[[], Tensor],
        place: tuple[int, int] | None = None,
    ) -> None:
        self.dtype, self.raw, self._count, self._read = dtype, raw, count, read
        self._place = place

    def numel(self) -> int:
        return self._count

    @property
    def place(self) -> tuple[int, int] | None:
        """Where the entries are, or None where they are in memory already, or in no plain file."""
        return None if "tensor" in self.__dict__ else self._place

    @cached_property
    def tensor(self) -> Tensor:
        """The entries, flat, in memory used again for the next."""
        return self._read()


class StoredSparse:
    """Flat entries of which only those whose bit is set have a value; the others are 0.

    >>> import numpy as np, torch
    >>> bits = np.array([0b10100], dtype=np.uint8)
    >>> StoredSparse(torch.tensor([5.0, 7.0]), bits, 1, 5).tensor
    tensor([0., 5., 0., 7., 0.])

    values (m,) any dtype, in memory or not; bits uint8, the first entry's at `skip` from the lowest
    of the first; count entries.
    """

    def __init__(self, values: Tensor | Stored, bits: np.ndarray, skip: int, count: int) -> None:
        self.values, self.bits, self.skip, self._count = values, bits, skip, count

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def numel(self) -> int:
        return self._count

    @cached_property
    def tensor(self) -> Tensor:
        """All entries, flat. Raises ValueError for bits that are not as many as the values."""
        import numpy as np
        import torch

        kept = np.unpackbits(self.bits, count=self.skip + self._count, bitorder="little")
        at = torch.from_numpy(np.flatnonzero(kept[self.skip :]))
        values = in_memory(self.values)
        if len(at) != len(values):
            raise ValueError(f"{len(at)} bits stand for {len(values)} values")
        return values.new_zeros(self._count).index_put_((at,), values)


Entries: TypeAlias = "Tensor | Stored | StoredSparse"


def in_memory(entries: Entries) -> Tensor:
    """Return entries as a flat tensor."""
    return entries.tensor if isinstance(entries, Stored | StoredSparse) else entries
