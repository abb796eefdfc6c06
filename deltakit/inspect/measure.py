"""The one loop over the data: base block, k delta blocks, sums; then the next block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deltakit.delta_source import DeltaSource
from deltakit.dtypes import working_dtype
from deltakit.errors import NonFinite
from deltakit.inspect.sums import Sums
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Fixed, so that figures have the same bits on every machine; also the most entries whose count
# a product of 0s and 1s gives exactly in float32, with room to spare (2^24).
BLOCK = 1 << 18

Progress = Callable[[str, int], None]  # parameter, bytes read since the last call


class Measurer:
    """Adds up one parameter after the other, in memory allocated once: one a thread.

    Memory is about (13 k + 32) bytes an entry of a block, whatever the size of the model.
    """

    def __init__(
        self,
        base: TensorSource,
        sources: Sequence[DeltaSource],
        progress: Progress | None = None,
        block: int = BLOCK,
    ) -> None:
        import torch

        self._base, self._sources, self._progress = base, sources, progress
        self._block = block
        self._raw = torch.empty(block * 8, dtype=torch.uint8)
        self._base_bytes = torch.empty(block * 8, dtype=torch.uint8)
        self._delta_bytes = torch.empty(len(sources) * block * 8, dtype=torch.uint8)
        self._wide = torch.empty(len(sources) * block, dtype=torch.float64)
        self._flat = torch.empty(block, dtype=torch.float64)

    def measure(self, name: str) -> Sums:
        """Return the sums over one parameter; raises NonFinite naming it and the task."""
        info = self._base.infos[name]
        dtype = working_dtype(info.dtype)
        changed = [source.changes(name) for source in self._sources]
        sums = Sums.zero(len(self._sources))
        for start in range(0, info.numel, self._block):
            count = min(self._block, info.numel - start)
            base = self._base_bytes.view(dtype)[:count]
            base.copy_(self._base.block(name, start, start + count, self._raw))
            if any(changed):
                part = self._block_sums(self._deltas(name, start, base, changed), name)
            else:
                part = Sums.zero(len(self._sources), count)
            part.base_squares = _total_square(base, self._flat[:count])
            sums = sums + part
            if self._progress:
                self._progress(name, count * info.nbytes // info.numel * (1 + sum(changed)))
        return sums

    def _deltas(self, name: str, start: int, base: Tensor, changed: list[bool]) -> Tensor:
        """Return the block of every task, zeros for one that does not change the parameter."""
        count = base.numel()
        flat = self._delta_bytes.view(base.dtype)[: len(self._sources) * count]
        deltas = flat.view(len(self._sources), count)  # (k, n)
        for row, source, changes in zip(deltas, self._sources, changed, strict=True):
            if changes:
                source.block_into(row, name, start, base)
            else:
                row.zero_()
        return deltas

    def _block_sums(self, deltas: Tensor, name: str) -> Sums:
        """Return the sums over one block of deltas (k, n), which is used up."""
        import torch

        tasks, count = deltas.shape
        flat = self._flat[:count]
        wide = self._wide[: tasks * count].view(tasks, count)  # (k, n) float64
        wide.copy_(deltas)
        sums = Sums.zero(tasks, count)
        sums.dot = (wide @ wide.T).numpy()
        self._check_finite(sums.dot, name)
        for i, row in enumerate(wide):
            torch.abs(row, out=flat)
            sums.total[i], sums.absolute[i] = row.sum().item(), flat.sum().item()
            lowest, highest = deltas[i].aminmax()
            sums.largest[i] = max(highest.item(), -lowest.item())  # 0.0, never -0.0
            for j in range(i):
                torch.add(row, wide[j], out=flat)
                sums.pair_absolute[i, j] = sums.pair_absolute[j, i] = flat.abs_().sum().item()
            sums.pair_absolute[i, i] = 2 * sums.absolute[i]
        sums.sum_absolute = torch.sum(wide, 0, out=flat).abs_().sum().item()
        wide.square_()
        sums.dot_squares = (wide @ wide.T).numpy()
        self._count_signs(sums, deltas.sign_())
        return sums

    def _count_signs(self, sums: Sums, signs: Tensor) -> None:
        """Fill in the counts from the signs (k, n) of one block, which are used up.

        Products of signs are 1 where two agree and -1 where they do not, so two small matrix
        products count all pairs.
        """
        import torch

        tasks = len(signs)
        flat = self._flat[: signs.shape[1]]
        agree_less_conflict = _whole(signs @ signs.T)
        leaning = signs.sum(0).abs_()  # (n,) |+1s - -1s|
        owned = signs.abs_()
        sums.both = _whole(owned @ owned.T)
        sums.conflicts = (sums.both - agree_less_conflict) // 2
        flat.copy_(owned.sum(0))  # (n,) how many tasks own the entry
        sums.mixed = int((flat != leaning).sum())
        sums.owners = torch.bincount(flat.to(torch.int64), minlength=tasks + 1).numpy()

    def _check_finite(self, dot: np.ndarray, name: str) -> None:
        import numpy as np

        for source, square in zip(self._sources, np.diag(dot), strict=True):
            if not np.isfinite(square):
                raise NonFinite(
                    f"NaN or infinity in the delta of {name!r}",
                    where=source.label,
                    remedy="a training run that diverged leaves such values: use an earlier save",
                )


def _total_square(values: Tensor, scratch: Tensor) -> float:
    scratch.copy_(values)
    return float(scratch.dot(scratch))


def _whole(counts: Tensor) -> np.ndarray:
    import torch

    return counts.to(torch.int64).numpy()
