"""What a delta stores of each parameter: which entries, and with what value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from deltakit.delta_source import ModelDelta, merged_names
from deltakit.dtypes import itemsize, torch_dtype, working_dtype
from deltakit.errors import NonFinite
from deltakit.mask import Mask, RandomMask
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

BLOCK = 1 << 20  # entries; a multiple of 8, so that blocks of bits begin on a byte


class Difference(Protocol):
    """Which entries of each parameter are stored, and with what value."""

    exact: bool
    absent_is_zero: bool  # what an entry not stored means; else it is as in the base

    def infos(self) -> dict[str, TensorInfo]:
        """Return the parameters looked at, with the dtype their values are stored in."""

    def block(
        self, name: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        """Return (entries to store, entries the seed keeps or None, values) of a flat range."""


class AddDifference:
    """tuned - base in float32, masked, rounded once to the stored dtype."""

    absent_is_zero = True

    def __init__(
        self, base: TensorSource, tuned: TensorSource, mask: Mask | None, dtype: str | None
    ) -> None:
        import torch

        self.exact = True
        self._base, self._delta, self._mask, self._dtype = base, ModelDelta(tuned), mask, dtype
        self._raw = torch.empty(BLOCK * 8, dtype=torch.uint8)
        self._label = tuned.label

    def infos(self) -> dict[str, TensorInfo]:
        return {
            name: TensorInfo(
                self._dtype or self._base.infos[name].dtype, self._base.infos[name].shape
            )
            for name in merged_names(self._base.infos)
        }

    def values(self, name: str, start: int, stop: int) -> Tensor:
        """Return the delta of a flat range before masking and rounding."""
        import torch

        work = working_dtype(self._base.infos[name].dtype)
        base = self._base.block(name, start, stop, self._raw).to(work)
        delta = torch.empty(stop - start, dtype=work)
        self._delta.block_into(delta, name, start, base)
        return delta

    def block(
        self, name: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        delta = self.values(name, start, stop)
        kind = torch_dtype(self._dtype or self._base.infos[name].dtype)
        self._check_range(name, delta, kind)
        stored = delta.to(kind)
        wide = stored.to(delta.dtype)
        kept: np.ndarray = (wide != 0).numpy()
        if self._mask is None:
            self.exact &= bool((wide == delta).all())
            return kept, None, stored
        masked = self._mask.keep(name, start, stop, delta)
        kept = kept & masked
        self.exact &= bool((wide == delta).numpy()[masked].all())
        return kept, masked if isinstance(self._mask, RandomMask) else None, stored

    def _check_range(self, name: str, delta: Tensor, kind: torch.dtype) -> None:
        """Raise NonFinite for a delta that holds NaN or infinity, or that `kind` cannot hold.

        Before rounding, because some dtypes have no infinity and round to their largest.
        """
        import torch

        low, high = (float(extreme) for extreme in delta.aminmax())  # NaN if there is one
        if -low <= torch.finfo(kind).max and high <= torch.finfo(kind).max:
            return
        if math.isfinite(low) and math.isfinite(high):
            raise NonFinite(
                f"the delta of {name!r} overflows {kind}",
                where=self._label,
                remedy="store the values as float32",
            )
        raise NonFinite(
            f"the delta of {name!r} holds NaN or infinity",
            where=self._label,
            remedy="retrain or repair the model",
        )


class ReplaceDifference:
    """The fine-tuned model's own values, where a byte of them differs from the base's."""

    absent_is_zero = False

    def __init__(self, base: TensorSource, tuned: TensorSource) -> None:
        import torch

        self.exact = True
        self._base, self._tuned = base, tuned
        self._raw = torch.empty(BLOCK * 8, dtype=torch.uint8)
        self._other = torch.empty(BLOCK * 8, dtype=torch.uint8)

    def infos(self) -> dict[str, TensorInfo]:
        return dict(sorted(self._tuned.infos.items()))

    def block(
        self, name: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        import numpy as np

        values = self._tuned.block(name, start, stop, self._raw)
        if self._base.infos.get(name) != self._tuned.infos[name]:
            return np.ones(stop - start, dtype=np.bool_), None, values
        kind = f"u{itemsize(self._tuned.infos[name].dtype)}"
        self._base.block(name, start, stop, self._other)
        nbytes = (stop - start) * np.dtype(kind).itemsize
        ours = self._raw[:nbytes].numpy().view(kind)
        return ours != self._other[:nbytes].numpy().view(kind), None, values
