"""One parameter of a sparse file, read by blocks without expanding the rest."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.bits import overwrite
from deltakit.dtypes import DTYPES, itemsize
from deltakit.errors import BadFile
from deltakit.rng import Draws
from deltakit.stored import Filled, Stored, StoredSparse
from deltakit.tensors.codec import BITMASK, INDICES, VALUES, Codec, scatter, stored, unpack
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.indices import Indices
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.runs import Miscounted, Runs

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
        self._places: Runs | Indices
        if codec == "indices":
            self._places = Indices(self.info.numel, self.count, self._read_indices)
        else:
            self._places = Runs(self.info.numel, self.count, self._read_bits)
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

    def overwrite(self, out: np.ndarray, start: int) -> None:
        """Write the bytes of the kept values of entries start.. over those in `out` (uint8)."""
        import numpy as np

        size = itemsize(self.info.dtype)
        stop = start + len(out) // size
        if self.codec == "dense":
            self._file.read(self._held, start * size, memoryview(out))
            return
        bits, skip = self._bits(start, stop)
        first, last = self._values_before(start), self._values_before(stop)
        values = np.empty((last - first) * size, dtype=np.uint8)
        self._file.read(self._held, first * size, memoryview(values))
        if not overwrite(values, size, bits, skip, out):
            kept = unpack(bits, skip, stop - start)
            out.view(f"u{size}")[kept] = values.view(f"u{size}")

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
        return unpack(*self._bits(start, stop), stop - start)

    def _bits(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Return bytes that hold the bits of entries start..stop, and how many are before them."""
        try:
            return self._places.bits(start, stop)
        except Miscounted as error:
            raise self._bad(str(error)) from None

    def _values_before(self, start: int) -> int:
        try:
            return self._places.before(start)
        except Miscounted as error:
            raise self._bad(str(error)) from None

    def _read_bits(self, start: int, stop: int) -> np.ndarray:
        import numpy as np

        if self.codec == "bitmask":
            return self._read(self.name + BITMASK, start // 8, -(-stop // 8), np.dtype("u1"))
        assert self._draws is not None
        draws, density = self._draws
        return draws.bits(start, stop, density)

    def _read_indices(self, first: int, last: int) -> np.ndarray:
        import numpy as np

        kind = {"U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8"}
        dtype = self._file.header.infos[self.name + INDICES].dtype
        return self._read(self.name + INDICES, first, last, np.dtype(kind[dtype]))

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
