"""Deltas that are not computed until a formula asks for them.

A block of k experts lies in files or in memory as it is stored, mostly in 16 bits. The kernels read
it, take the difference to the base, trim and drop while they add up, a few entries at a time, so
that no float32 copy of the stack is written and read again. Torch computes the copy and goes on
from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.drawn import Drawn
from deltakit.dtypes import safetensors_dtype, torch_dtype, widened
from deltakit.formula import Formula
from deltakit.stored import Entries, Filled, Stored, StoredSparse, dtype_of, in_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from deltakit.cut import Cut


@dataclass(frozen=True, eq=False)
class LazyDelta:
    """One expert's delta of a flat slice: stored - base, then trimmed, then dropped.

    >>> import torch
    >>> stored = torch.tensor([1.5, 2.0], dtype=torch.bfloat16)
    >>> out = torch.empty(2)
    >>> LazyDelta(stored, torch.ones(2)).into(out)
    >>> out
    tensor([0.5000, 1.0000])

    stored, base (n,) any float dtype, in memory or not; without a base `stored` is the delta
    itself. Computed in float32, or float64 where the base is.
    """

    stored: Entries
    base: Entries | None = None
    threshold: float | None = None  # magnitudes up to it become 0, ...
    ties: int = 0  # ... but for those level with it among the first so many
    highest: float | None = None  # magnitudes above it are multiplied by 0, ...
    top_ties: int = 0  # ... and those level with it among the first so many
    kept: Tensor | Drawn | None = None  # bool (n,): the others are multiplied by 0
    divisor: float = 1.0  # of those kept

    @property
    def dtype(self) -> str:
        """The dtype it is computed in, F32 or F64."""
        return widened(dtype_of(self.stored if self.base is None else self.base))

    @property
    def device(self) -> torch.device | str:
        """Where it is computed."""
        stored = self.stored
        return "cpu" if isinstance(stored, Filled | Stored | StoredSparse) else stored.device

    def numel(self) -> int:
        return self.stored.numel()

    @cached_property
    def tensor(self) -> Tensor:
        """The delta itself, flat; not to be modified."""
        import torch

        out = torch.empty(self.numel(), dtype=torch_dtype(self.dtype), device=self.device)
        self.into(out)
        return out

    def into(self, out: Tensor) -> None:
        """Write the delta to flat `out`, of its dtype."""
        alone = LazyDeltas([self], (self.numel(),), safetensors_dtype(out.dtype))
        if kernels.combine(alone, Formula((1.0,)), out):
            return
        out.copy_(in_memory(self.stored))
        if self.base is not None:
            base = in_memory(self.base)
            out.sub_(base if base.dtype == out.dtype else base.to(out.dtype))
        if self.threshold is not None:
            _shrink(out, self.threshold, self.ties)
        if self.highest is not None:
            _top(out, self.highest, self.top_ties)
        if self.kept is not None:
            kept = self.kept.tensor if isinstance(self.kept, Drawn) else self.kept
            out.mul_(kept.to(out.dtype))  # torch multiplies by a bool ten times as slowly
            if self.divisor != 1.0:
                # By a tensor, since a GPU multiplies by the reciprocal of a number.
                out.div_(out.new_full((), self.divisor))


def _shrink(flat: Tensor, threshold: float, ties: int) -> None:
    import torch

    for part, most in _levels(flat, threshold, ties):
        torch.hardshrink(part, most, out=part)


def _top(flat: Tensor, highest: float, ties: int) -> None:
    for part, most in _levels(flat, highest, ties):
        part.mul_((part.abs() <= most).to(part.dtype))  # infinity times 0 is no number: not lost


def _levels(flat: Tensor, level: float, ties: int) -> tuple[tuple[Tensor, float], ...]:
    """Return the first `ties` entries and the next number below the level, the others and it."""
    import torch

    limit = torch.tensor(level, dtype=flat.dtype)
    below = float(limit.nextafter(torch.full_like(limit, -1.0)))
    return (flat[:ties], below), (flat[ties:], level)


class LazyDeltas:
    """k such deltas of one slice, each of `shape`, to be computed in `dtype` (F32 or F64)."""

    def __init__(self, each: Sequence[LazyDelta], shape: Sequence[int], dtype: str) -> None:
        self.each, self.shape, self.dtype = tuple(each), tuple(shape), dtype

    @classmethod
    def of(cls, deltas: Tensor | LazyDeltas) -> LazyDeltas:
        """Return deltas that may be computed already, (k, *shape), in this form."""
        if isinstance(deltas, LazyDeltas):
            return deltas
        each = [LazyDelta(delta.reshape(-1)) for delta in deltas]
        lazy = cls(each, deltas.shape[1:], safetensors_dtype(deltas.dtype))
        lazy.__dict__["tensor"] = deltas
        return lazy

    def __len__(self) -> int:
        return len(self.each)

    def empty(self) -> Tensor:
        """Return a new tensor of one delta's shape."""
        import torch

        dtype = torch_dtype(self.dtype)
        return torch.empty(self.shape, dtype=dtype, device=self.each[0].device)

    @cached_property
    def tensor(self) -> Tensor:
        """The deltas themselves, (k, *shape); not to be modified."""
        import torch

        shape, dtype = (len(self), *self.shape), torch_dtype(self.dtype)
        deltas = torch.empty(shape, dtype=dtype, device=self.each[0].device)
        for delta, out in zip(self.each, deltas, strict=True):
            delta.into(out.view(-1))
        return deltas

    def trimmed(self, cuts: Sequence[Cut], start: int) -> LazyDeltas:
        """Return the deltas with what each cut cuts set to 0; the slice begins at index `start`."""
        each = [
            replace(delta, threshold=cut.threshold, ties=cut.ties(start, delta.numel()))
            if cut.cuts
            else delta
            for delta, cut in zip(self.each, cuts, strict=True)
        ]
        return LazyDeltas(each, self.shape, self.dtype)

    def topped(self, cuts: Sequence[Cut], start: int) -> LazyDeltas:
        """Return the deltas with what each cut keeps set to 0; infinity becomes NaN."""
        each = [
            replace(delta, highest=cut.threshold, top_ties=cut.ties(start, delta.numel()))
            if cut.threshold < float("inf")
            else delta
            for delta, cut in zip(self.each, cuts, strict=True)
        ]
        return LazyDeltas(each, self.shape, self.dtype)

    def dropped(self, kept: Sequence[Tensor | Drawn], divisor: float) -> LazyDeltas:
        """Return the deltas with what is not kept set to 0, over the divisor."""
        each = [
            replace(delta, kept=mask, divisor=divisor)
            for delta, mask in zip(self.each, kept, strict=True)
        ]
        return LazyDeltas(each, self.shape, self.dtype)

    def same_stored(self, other: LazyDeltas) -> bool:
        """Tell whether these are the other's, perhaps trimmed or dropped."""
        return len(self) == len(other) and all(
            ours.stored is theirs.stored and ours.base is theirs.base
            for ours, theirs in zip(self.each, other.each, strict=True)
        )

    def squares(self) -> list[float]:
        """Return the sum of squares of each delta, before it is trimmed or dropped."""
        found = kernels.combine(self, Formula((1.0,) * len(self)), squares=True)
        if found is not None:
            return list(found.squares[:-1])
        return [float(flat.dot(flat)) for flat in self.tensor.flatten(1)]
