"""One parameter of a sparse file, read by blocks without expanding the rest."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.dtypes import DTYPES, itemsize
from deltakit.errors import BadFile
from deltakit.rng import Draws
from deltakit.stored import Filled, Stored, StoredSparse
from deltakit.tensors.codec import BITMASK, INDICES, VALUES, Codec, pack, scatter, stored, unpack
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.runs import CHUNK, Miscounted, Runs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class SparseTensor:
    """A parameter under one codec: which entries are kept, and their values, for any flat range.

    A count of kept entries every 65536 positions tells where the values of a block begin. It grows
    as blocks are asked for (of indices it is made in one pass on first use), and checks the file:
    set bits, sorted indices or draws must be as many as the values. Raises BadFile naming the
    parameter.
    """

    def __init__(
        self,
        file: SafetensorsFile,
        name: str,
        codec: Codec,
        shape: tuple[int, ...],
        draws: tuple[Draws, float] | None = None,
    ) -> None:
        infos = file.header.infos
        self.name, self.codec, self._file, self._draws = name, codec, file, draws
        self._held = name if codec == "dense" else name + VALUES  # what the file calls the values
        self.info = TensorInfo(infos[self._held].dtype, shape)
        self.count = infos[self._held].numel
        self._lock = threading.Lock()
        self._table: list[int] | None = (
            None  # of indices: those before entry 0, CHUNK, 2 CHUNK, ...
        )
        self._runs = Runs(self.info.numel, self.count, self._read_bits)  # of the others
        for part, expected in stored(name, codec, self.info.dtype, shape, self.count).items():
            if infos[part].shape != expected.shape:
                raise self._bad(f"{part} does not fit the parameter's shape {list(shape)}")
        if codec == "seed" and draws is None:
            raise self._bad("its mask is a seed, and there is none")
        if DTYPES[self.info.dtype][1] is None:
            raise self._bad(f"torch cannot hold its dtype {self.info.dtype}")
        if codec == "bitmask" and infos[name + BITMASK].dtype != "U8":
            raise self._bad("the bitmask is not U8")
        if codec == "indices" and infos[name + INDICES].dtype not in ("U32", "U64", "I32", "I64"):
            raise self._bad("the indices are not integers of 32 or 64 bits")

    def _bad(self, fact: str) -> BadFile:
        return BadFile(fact, where=f"{self._file.path}, parameter {self.name!r}")

    def add_to(self, out: Tensor, start: int, *, minus: Tensor | None = None) -> None:
        """Write the kept values of entries start.. into flat `out`; others stay as they are.

        With `minus`, that flat tensor's entries are subtracted from the values (a `replace` delta
        minus its base). Values are converted to out's dtype first.
        """
        stop = start + len(out)
        if self.codec == "dense":
            out.copy_(self._values(start, stop))
            if minus is not None:
                out.sub_(minus)
            return
        values = self._values(self._values_before(start), self._values_before(stop))
        if kernels.scatter(values, *self._bits(start, stop), minus, out):
            return
        kept = self._kept(start, stop)
        values = values.to(out.dtype)
        if minus is not None:
            import torch

            values = values - minus[torch.from_numpy(kept)]
        scatter(values, kept, out)

    def stored(self, start: int, stop: int, raw: np.ndarray) -> Stored | StoredSparse:
        """Return entries start..stop as values and, where not all have one, bits.

        The values are read into `raw` (uint8, 8 bytes an entry) when they are asked for; it is in
        use for as long as what is returned.
        """
        if self.codec == "dense":
            return self._stored(start, stop, raw)
        bits, skip = self._bits(start, stop)  # before they are counted to the end, and forgotten
        first, last = self._values_before(start), self._values_before(stop)
        return StoredSparse(self._stored(first, last, raw), bits, skip, stop - start)

    def _stored(self, first: int, last: int, raw: np.ndarray) -> Stored:
        """Return stored values number first..last, not read yet."""
        place = self._file.place(self._held, first * itemsize(self.info.dtype))
        read = partial(self._values, first, last, raw)
        return Stored(self.info.dtype, last - first, raw, read, place)

    def kept(self, start: int, stop: int) -> np.ndarray:
        """Return which entries start..stop hold a value: bool (stop - start,)."""
        import numpy as np

        if self.codec == "dense":
            return np.ones(stop - start, dtype=np.bool_)
        self._values_before(self.info.numel)
        return self._kept(start, stop)

    def _kept(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        if self.codec != "indices":
            return unpack(*self._bits(start, stop), stop - start)
        indices = self._near(start, stop).astype(np.int64)
        kept = np.zeros(stop - start, dtype=np.bool_)
        kept[indices[(indices >= start) & (indices < stop)] - start] = True
        return kept

    def _bits(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return bytes that hold the bits of entries start..stop, and how many are before them."""
        if self.codec != "indices":
            return self._runs.bits(start, stop)
        import numpy as np

        bits = np.zeros(-(-(stop - start) // 8), dtype=np.uint8)
        if not kernels.mark(self._near(start, stop), start, stop - start, bits):
            bits = pack(self._kept(start, stop))
        return bits, 0

    def _read_bits(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        if self.codec == "bitmask":
            return self._read(self.name + BITMASK, start // 8, -(-stop // 8), np.dtype("u1"))
        assert self._draws is not None
        draws, density = self._draws
        return draws.bits(start, stop, density)

    def _values_before(self, start: int) -> int:
        if self.codec != "indices":
            try:
                return self._runs.before(start)
            except Miscounted as error:
                raise self._bad(str(error)) from None
        before, inside = self._counted()[start // CHUNK], start % CHUNK
        if inside and start < self.info.numel:
            return before + int(self._kept(start - inside, start).sum())
        return before if start < self.info.numel else self.count

    def _counted(self) -> list[int]:
        with self._lock:
            if self._table is None:
                self._table = self._count_indices()
            return self._table

    def _count_indices(self) -> list[int]:
        import numpy as np

        bounds = np.append(np.arange(0, self.info.numel, CHUNK), self.info.numel)
        table = np.zeros(len(bounds), dtype=np.int64)
        last = -1
        for at in range(0, self.count, 1 << 20):
            part = self._indices(at, min(at + (1 << 20), self.count)).astype(np.int64)
            if part[0] <= last or part[-1] >= self.info.numel or (part[1:] <= part[:-1]).any():
                raise self._bad("the indices are not ascending within the parameter")
            table += np.searchsorted(part, bounds)
            last = int(part[-1])
        if table[-1] != self.count:
            raise self._bad(f"{self.count} values stand for {int(table[-1])} kept entries")
        return [int(number) for number in table]

    def _indices(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        kind = {"U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8"}
        dtype = self._file.header.infos[self.name + INDICES].dtype
        return self._read(self.name + INDICES, start, stop, np.dtype(kind[dtype]))

    def _near(self, start: int, stop: int) -> np.ndarray:
        """Return the indices of entries start..stop, and some of those before and after."""
        table = self._counted()
        return self._indices(table[start // CHUNK], table[-(-stop // CHUNK)])

    def _read(self, name: str, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
        import numpy as np

        out = np.empty(stop - start, dtype=dtype)
        self._file.read(name, start * dtype.itemsize, memoryview(out).cast("B"))
        return out

    def _values(self, start: int, stop: int, raw: np.ndarray | None = None) -> Tensor:
        """Return stored values number start..stop in their own dtype, read into `raw` if given."""
        import numpy as np

        size = itemsize(self.info.dtype)
        part = np.empty((stop - start) * size, dtype=np.uint8) if raw is None else raw
        part = part[: (stop - start) * size]
        self._file.read(self._held, start * size, memoryview(part))
        return Filled(self.info.dtype, part).tensor
