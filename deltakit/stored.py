"""Entries as a file holds them, not read before someone asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from deltakit.dtypes import itemsize, safetensors_dtype, torch_dtype

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Filled:
    """Flat entries of a safetensors dtype in memory (uint8), where they lie as in a file.

    >>> import numpy as np
    >>> Filled("F32", np.zeros(8, dtype=np.uint8)).tensor
    tensor([0., 0.])
    """

    def __init__(self, dtype: str, raw: np.ndarray) -> None:
        self.dtype, self.raw = dtype, raw

    def numel(self) -> int:
        return len(self.raw) // itemsize(self.dtype)

    @cached_property
    def tensor(self) -> Tensor:
        """The entries themselves, flat."""
        return as_tensor(self.raw).view(torch_dtype(self.dtype))


class Stored:
    """Flat entries of a tensor in a file, read into `raw` when they are first asked for.

    >>> import numpy as np, torch
    >>> Stored("F32", 2, np.zeros(8, dtype=np.uint8), lambda: torch.zeros(2)).tensor
    tensor([0., 0.])

    `place` is where a kernel may read them itself, a file descriptor and a byte offset; it uses
    `raw` (uint8), and nothing else must meanwhile: room for all entries, or for no more than it
    reads at a time where nothing but kernels asks for them.
    """

    def __init__(
        self,
        dtype: str,
        count: int,
        raw: np.ndarray,
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
    def dtype(self) -> str:
        return dtype_of(self.values)

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


Entries: TypeAlias = "Tensor | Filled | Stored | StoredSparse"


def dtype_of(entries: Entries) -> str:
    """Return the safetensors name of the dtype of entries."""
    return entries.dtype if isinstance(entries.dtype, str) else safetensors_dtype(entries.dtype)


def as_tensor(raw: np.ndarray) -> Tensor:
    """Return bytes as a tensor, uint8 (n,), in the same memory."""
    import torch

    # Of no bytes numpy may tell a step of 0, and torch would not view them as another dtype.
    return torch.from_numpy(raw) if len(raw) else torch.empty(0, dtype=torch.uint8)


def in_memory(entries: Entries) -> Tensor:
    """Return entries as a flat tensor."""
    return entries.tensor if isinstance(entries, Filled | Stored | StoredSparse) else entries
