"""The tensors of a stack as a merge reads them: layers of several models, some multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.delta_source import is_merged
from deltakit.dtypes import itemsize, torch_dtype, working_dtype
from deltakit.errors import NonFinite
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.mosaic import Mosaic
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    from deltakit.tensors.reader import SafetensorsFile


class StackedBase(TensorSource):
    """A stack's tensors, of the base and of what is taken.

    What a factor multiplies is computed in float32 (float64 where stored so) and rounded once to
    the output's dtype, which it has here. Integers are never multiplied.
    """

    def __init__(self, tensors: Mosaic, factors: Mapping[str, float], dtype: str | None) -> None:
        self._tensors, self.label = tensors, tensors.label
        self._factors = {n: f for n, f in factors.items() if is_merged(tensors.infos[n])}
        self._infos = {
            name: TensorInfo(dtype or info.dtype, info.shape) if name in self._factors else info
            for name, info in tensors.infos.items()
        }

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        return self._infos

    @property
    def files(self) -> Sequence[SafetensorsFile]:
        return self._tensors.files

    def place(self, name: str, start: int) -> tuple[int, int] | None:
        return None if name in self._factors else self._tensors.place(name, start)

    def read(self, name: str, start: int, buffer: memoryview) -> None:
        if name not in self._factors:
            self._tensors.read(name, start, buffer)
            return
        import torch

        kind = self._infos[name].dtype
        size = itemsize(kind)
        first, last = start // size, (start + len(buffer)) // size
        raw = torch.empty((last - first) * 8, dtype=torch.uint8)
        block = self._tensors.block(name, first, last, raw)  # (n,)
        stored = self._tensors.infos[name].dtype
        wide = block.to(working_dtype(stored)) * self._factors[name]
        found = wide.to(torch_dtype(kind))
        if not found.float().isfinite().all() and block.float().isfinite().all():
            raise NonFinite(
                "a factor makes a tensor too large for its dtype",
                where=f"{self.label}, tensor {name!r}",
                got=f"factor {self._factors[name]:g}, in {kind}",
                remedy="choose a smaller factor, or a wider dtype",
            )
        buffer[:] = memoryview(found.view(torch.uint8).numpy())
