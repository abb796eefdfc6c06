"""What a mergeable delta stores: tuned - base, thinned by a mask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.delta_source import merged_names
from deltakit.difference import Count, Difference, Part
from deltakit.dtypes import itemsize, largest, torch_dtype
from deltakit.errors import NonFinite
from deltakit.lazy import LazyDelta
from deltakit.mask import Mask, RandomMask
from deltakit.tensors.codec import Codec, pack
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Whose values a codec stores.
_WHOSE: dict[Codec, kernels.Whose] = {"dense": "every", "seed": "kept"}


class AddDifference(Difference):
    """tuned - base in float32, masked, rounded once to the stored dtype."""

    def __init__(
        self, base: TensorSource, tuned: TensorSource, mask: Mask | None, dtype: str | None
    ) -> None:
        super().__init__()
        self._base, self._tuned, self._mask, self._dtype = base, tuned, mask, dtype

    @property
    def computes(self) -> bool:
        if self._mask is not None and not self._mask.lazy:
            return True
        return not all(self._taken(name) for name in merged_names(self._base.infos))

    def infos(self) -> dict[str, TensorInfo]:
        return {
            name: TensorInfo(self._stored_dtype(name), self._base.infos[name].shape)
            for name in merged_names(self._base.infos)
        }

    def _stored_dtype(self, name: str) -> str:
        return self._dtype or self._base.infos[name].dtype

    def lazy(self, name: str, start: int, stop: int) -> LazyDelta:
        """Return the delta of a flat range before masking and rounding, not read yet."""
        base = self._base.stored(name, start, stop, self._room("base", stop - start))
        return LazyDelta(
            self._tuned.stored(name, start, stop, self._room("tuned", stop - start)), base
        )

    def look(self, name: str) -> None:
        if self._mask is not None:
            self._mask.look(name)

    def count(self, name: str, start: int, stop: int) -> Count:
        found = self._sparsify(name, start, stop)
        if found is None:
            kept, drawn, _ = self._computed(name, start, stop)
            return Count(int(kept.sum()), None if drawn is None else int(drawn.sum()))
        return Count(found.staying, found.kept if isinstance(self._mask, RandomMask) else None)

    def part(self, name: str, start: int, stop: int, codec: Codec) -> Part:
        import numpy as np

        whose, size = _WHOSE.get(codec, "staying"), itemsize(self._stored_dtype(name))
        values = self._room("values", stop - start)
        bits = np.empty(-(-(stop - start) // 8), dtype=np.uint8)
        found = self._sparsify(name, start, stop, whose, values, bits)
        if found is None:
            return self._computed_part(name, start, stop, codec)
        count = {"staying": found.staying, "kept": found.kept, "every": stop - start}[whose]
        return Part(values[: count * size], bits)

    def _taken(self, name: str) -> bool:
        """Tell whether the kernels take the parameter as it is and as it is stored."""
        models = (self._base.infos[name].dtype, self._tuned.infos[name].dtype)
        return kernels.take({self._stored_dtype(name), *models})

    def _sparsify(
        self,
        name: str,
        start: int,
        stop: int,
        whose: kernels.Whose = "staying",
        values: np.ndarray | None = None,
        bits: np.ndarray | None = None,
    ) -> kernels.Sparsified | None:
        """Let the kernels store a flat range, and check what they found; None where they do not."""
        if not self._taken(name):
            return None
        dtype = self._stored_dtype(name)
        delta = self.lazy(name, start, stop)
        if self._mask is not None:
            delta = self._mask.thinned(name, start, delta)
        found = kernels.sparsify(delta, dtype, whose, values, bits)
        if found is not None:
            self._check_range(name, found.highest)
            if found.rounded:
                self.exact = False
        return found

    def _computed_part(self, name: str, start: int, stop: int, codec: Codec) -> Part:
        import torch

        kept, drawn, values = self._computed(name, start, stop)
        flat = values.view(torch.uint8).numpy().view(f"u{values.element_size()}")
        if codec == "dense":
            return Part(flat * kept, pack(kept))
        return Part(flat[drawn if codec == "seed" and drawn is not None else kept], pack(kept))

    def _computed(
        self, name: str, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor]:
        """Return (entries to store, entries a random mask keeps or None, values), by torch."""
        delta = self.lazy(name, start, stop).tensor
        low, high = (float(extreme) for extreme in delta.aminmax())  # NaN if there is one
        self._check_range(name, max(-low, high))
        stored = delta.to(torch_dtype(self._stored_dtype(name)))
        wide = stored.to(delta.dtype)
        kept: np.ndarray = (wide != 0).numpy()
        masked = None
        if self._mask is not None:
            masked = self._mask.keep(name, start, stop, delta)
            kept = kept & masked
        same = (wide == delta).numpy()
        if not (same if masked is None else same[masked]).all():
            self.exact = False
        return kept, masked if isinstance(self._mask, RandomMask) else None, stored

    def _check_range(self, name: str, highest: float) -> None:
        """Raise NonFinite for a delta whose largest magnitude is none, or not to be stored.

        Before rounding, because some dtypes have no infinity and round to their largest.
        """
        dtype = self._stored_dtype(name)
        if highest <= largest(dtype):
            return
        if math.isfinite(highest):
            raise NonFinite(
                f"the delta of {name!r} overflows {dtype}",
                where=self._tuned.label,
                remedy="store the values as float32",
            )
        raise NonFinite(
            f"the delta of {name!r} holds NaN or infinity",
            where=self._tuned.label,
            remedy="retrain or repair the model",
        )
