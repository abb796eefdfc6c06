"""One parameter of a sparse file, read by blocks without expanding the rest."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.errors import BadFile
from deltakit.rng import Draws
from deltakit.stored import StoredSparse
from deltakit.tensors.codec import BITMASK, INDICES, VALUES, Codec, pack, scatter, stored, unpack
from deltakit.tensors.dtypes import DTYPES, itemsize, torch_dtype
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.reader import SafetensorsFile

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CHUNK = 1 << 16  # entries between two remembered counts; a multiple of 8
_RUN = 16 * CHUNK  # entries counted at a time


class SparseTensor:
    """A parameter under one codec: which entries are kept, and their values, for any flat range.

    A count of kept entries every 65536 positions, made in one pass on first use, tells where the
    values of a block begin. That pass also checks the file: set bits, sorted indices or draws must
    be as many as the values. Raises BadFile naming the parameter.
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
        stem = name if codec == "dense" else name + VALUES
        self.info = TensorInfo(infos[stem].dtype, shape)
        self.count = infos[stem].numel
        self._lock = threading.Lock()
        self._before: np.ndarray | None = None
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
        first, last = self._values_before(start), self._values_before(stop)
        if self.codec == "bitmask":
            bits, skip = self._bits(start, stop)
            if kernels.scatter(self._values(first, last), bits, skip, minus, out):
                return
        kept = self.kept(start, stop)
        values = self._values(first, last).to(out.dtype)
        if minus is not None:
            import torch

            values = values - minus[torch.from_numpy(kept)]
        scatter(values, kept, out)

    def stored(self, start: int, stop: int) -> StoredSparse | None:
        """Return entries start..stop as values and bits; None where all of them have a value."""
        if self.codec == "dense":
            return None
        values = self._values(self._values_before(start), self._values_before(stop))
        if self.codec == "bitmask":
            return StoredSparse(values, *self._bits(start, stop), stop - start)
        return StoredSparse(values, pack(self._kept(start, stop)), 0, stop - start)

    def kept(self, start: int, stop: int) -> np.ndarray:
        """Return which entries start..stop hold a value: bool (stop - start,)."""
        import numpy as np

        if self.codec == "dense":
            return np.ones(stop - start, dtype=np.bool_)
        self._table()
        return self._kept(start, stop)

    def _kept(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        if self.codec == "seed":
            assert self._draws is not None
            draws, density = self._draws
            return draws.keep(start, stop, density)
        if self.codec == "bitmask":
            raw, skip = self._bits(start, stop)
            return unpack(raw, skip, stop - start)
        table = self._before
        assert table is not None
        indices = self._indices(int(table[start // CHUNK]), int(table[-(-stop // CHUNK)]))
        kept = np.zeros(stop - start, dtype=np.bool_)
        kept[indices[(indices >= start) & (indices < stop)] - start] = True
        return kept

    def _bits(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return the bytes of a bitmask that hold entries start..stop, and the bits before them."""
        import numpy as np

        first = start // 8
        return self._read(self.name + BITMASK, first, -(-stop // 8), np.dtype("u1")), start % 8

    def _values_before(self, start: int) -> int:
        table = self._table()
        if start == self.info.numel:
            return self.count
        chunk = start // CHUNK
        inside = self._count_kept(chunk * CHUNK, start).sum() if start % CHUNK else 0
        return int(table[chunk] + inside)

    def _count_kept(self, start: int, stop: int) -> np.ndarray:
        """Return how many entries hold a value of start.., a multiple of CHUNK, CHUNK by CHUNK."""
        import numpy as np

        chunks = range(0, stop - start, CHUNK)
        if self.codec != "bitmask":
            kept = self._kept(start, stop)
            return np.array([np.count_nonzero(kept[at : at + CHUNK]) for at in chunks])
        raw, _ = self._bits(start, stop)
        if stop % 8:
            raw[-1] &= (1 << stop % 8) - 1
        words = np.zeros(len(chunks) * CHUNK // 64, dtype=np.uint64)
        words.view(np.uint8)[: len(raw)] = raw
        return np.bitwise_count(words).reshape(len(chunks), -1).sum(axis=1, dtype=np.int64)

    def _table(self) -> np.ndarray:
        """Return how many values lie before entry 0, CHUNK, 2 CHUNK, ... and at the end."""
        with self._lock:
            if self._before is None:
                self._before = self._count()
            return self._before

    def _count(self) -> np.ndarray:
        import numpy as np

        numel = self.info.numel
        starts = range(0, numel, _RUN)
        if self.codec == "indices":
            table = self._count_indices(np.append(np.arange(0, numel, CHUNK), numel))
        else:
            counts = [self._count_kept(at, min(at + _RUN, numel)) for at in starts]
            table = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *counts]))
        if table[-1] != self.count or (self.codec == "bitmask" and self._stray_bits()):
            raise self._bad(f"{self.count} values stand for {int(table[-1])} kept entries")
        return table

    def _stray_bits(self) -> bool:
        """Tell whether a bit past the last entry is set."""
        import numpy as np

        if self.info.numel % 8 == 0:
            return False
        at = self.info.numel // 8
        raw = self._read(self.name + BITMASK, at, at + 1, np.dtype("u1"))
        return bool(raw[0] >> (self.info.numel % 8))

    def _count_indices(self, bounds: np.ndarray) -> np.ndarray:
        import numpy as np

        table = np.zeros(len(bounds), dtype=np.int64)
        last = -1
        for at in range(0, self.count, 1 << 20):
            part = self._indices(at, min(at + (1 << 20), self.count))
            if part[0] <= last or part[-1] >= self.info.numel or (part[1:] <= part[:-1]).any():
                raise self._bad("the indices are not ascending within the parameter")
            table += np.searchsorted(part, bounds)
            last = int(part[-1])
        return table

    def _indices(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        kind = {"U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8"}
        dtype = self._file.header.infos[self.name + INDICES].dtype
        raw = self._read(self.name + INDICES, start, stop, np.dtype(kind[dtype]))
        return raw.astype(np.int64)

    def _read(self, name: str, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
        import numpy as np

        out = np.empty(stop - start, dtype=dtype)
        self._file.read(name, start * dtype.itemsize, memoryview(out).cast("B"))
        return out

    def _values(self, start: int, stop: int) -> Tensor:
        """Return stored values number start..stop in their own dtype."""
        import torch

        name = self.name if self.codec == "dense" else self.name + VALUES
        size = itemsize(self.info.dtype)
        raw = torch.empty((stop - start) * size, dtype=torch.uint8)
        self._file.read(name, start * size, memoryview(raw.numpy()))
        return raw.view(torch_dtype(self.info.dtype))
