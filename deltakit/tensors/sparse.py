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
_RUN = 16 * CHUNK  # entries whose bits are drawn or read at a time
_REMEMBERED = 8  # runs


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
        stem = name if codec == "dense" else name + VALUES
        self.info = TensorInfo(infos[stem].dtype, shape)
        self.count = infos[stem].numel
        self._lock = threading.Lock()
        self._before: list[int] = [0]  # values before entry 0, CHUNK, 2 CHUNK, ... and at the end
        self._complete = False  # whether all values are counted
        self._runs: dict[int, np.ndarray] = {}  # the bits of those looked at last, by number
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
        if self.codec != "indices" and kernels.scatter(
            values, *self._bits(start, stop), minus, out
        ):
            return
        kept = self._kept(start, stop)
        values = values.to(out.dtype)
        if minus is not None:
            import torch

            values = values - minus[torch.from_numpy(kept)]
        scatter(values, kept, out)

    def stored(self, start: int, stop: int) -> StoredSparse | None:
        """Return entries start..stop as values and bits; None where all of them have a value."""
        if self.codec == "dense":
            return None
        values = self._values(self._values_before(start), self._values_before(stop))
        return StoredSparse(values, *self._bits(start, stop), stop - start)

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
        table = self._before
        indices = self._indices(table[start // CHUNK], table[-(-stop // CHUNK)])
        kept = np.zeros(stop - start, dtype=np.bool_)
        kept[indices[(indices >= start) & (indices < stop)] - start] = True
        return kept

    def _bits(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return bytes that hold the bits of entries start..stop, and how many are before them."""
        import numpy as np

        if self.codec == "indices":
            return pack(self._kept(start, stop)), 0
        first, numbers = start - start % 8, range(start // _RUN, -(-stop // _RUN))
        with self._lock:
            runs = [] if self._complete else [self._run(number) for number in numbers]
        if not runs:  # all are counted and none is remembered, or the range is empty
            return self._read_run(first, stop), start % 8
        bits = runs[0] if len(runs) == 1 else np.concatenate(runs)
        begin = (first - numbers.start * _RUN) // 8
        return bits[begin : begin + -(-(stop - first) // 8)], start % 8

    def _run(self, number: int) -> np.ndarray:
        """Return the bits of a run, remembered until all are counted; the lock is held."""
        if number not in self._runs:
            start, stop = number * _RUN, min((number + 1) * _RUN, self.info.numel)
            while len(self._runs) >= _REMEMBERED:
                del self._runs[next(iter(self._runs))]
            self._runs[number] = self._read_run(start, stop)
        return self._runs[number]

    def _read_run(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        if self.codec == "bitmask":
            return self._read(self.name + BITMASK, start // 8, -(-stop // 8), np.dtype("u1"))
        assert self._draws is not None
        draws, density = self._draws
        return pack(draws.keep(start, stop, density))

    def _values_before(self, start: int) -> int:
        import numpy as np

        with self._lock:
            self._count_to(start)
        if start == self.info.numel:
            return self.count
        before, inside = self._before[start // CHUNK], start % CHUNK
        if inside:
            bits, _ = self._bits(start - inside, start)
            last = np.unpackbits(bits[-1:], count=inside % 8 or 8, bitorder="little")
            before += int(np.bitwise_count(bits[:-1]).sum(dtype=np.int64)) + int(last.sum())
        return before

    def _count_to(self, stop: int) -> None:
        """Count the values of all entries up to `stop`, run after run; the lock is held."""
        if self._complete:
            return
        numel = self.info.numel
        if self.codec == "indices" and len(self._before) == 1:
            self._count_indices()
        while (len(self._before) - 1) * CHUNK < min(max(stop, 1), numel):
            start = (len(self._before) - 1) * CHUNK
            counts = self._counts(self._run(start // _RUN), min(_RUN, numel - start))
            self._before += (self._before[-1] + counts).tolist()
        complete, found = (len(self._before) - 1) * CHUNK >= numel, self._before[-1]
        if found > self.count or (complete and (found < self.count or self._stray_bits())):
            raise self._bad(f"{self.count} values stand for {found} kept entries")
        if complete:
            self._complete = True
            self._runs.clear()

    @staticmethod
    def _counts(bits: np.ndarray, numel: int) -> np.ndarray:
        """Return how many values there are up to the end of each chunk of a run."""
        import numpy as np

        words = np.zeros(-(-numel // CHUNK) * CHUNK // 64, dtype=np.uint64)
        words.view(np.uint8)[: len(bits)] = bits
        if numel % 8:  # bits past the last entry
            words.view(np.uint8)[len(bits) - 1] &= (1 << numel % 8) - 1
        each = np.bitwise_count(words).reshape(-1, CHUNK // 64).sum(axis=1, dtype=np.int64)
        return np.cumsum(each)

    def _stray_bits(self) -> bool:
        """Tell whether a bit past the last entry is set."""
        numel = self.info.numel
        if self.codec != "bitmask" or numel % 8 == 0:
            return False
        return bool(self._run((numel - 1) // _RUN)[-1] >> (numel % 8))

    def _count_indices(self) -> None:
        import numpy as np

        bounds = np.append(np.arange(CHUNK, self.info.numel, CHUNK), self.info.numel)
        table = np.zeros(len(bounds), dtype=np.int64)
        last = -1
        for at in range(0, self.count, 1 << 20):
            part = self._indices(at, min(at + (1 << 20), self.count))
            if part[0] <= last or part[-1] >= self.info.numel or (part[1:] <= part[:-1]).any():
                raise self._bad("the indices are not ascending within the parameter")
            table += np.searchsorted(part, bounds)
            last = int(part[-1])
        self._before += table.tolist()

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
