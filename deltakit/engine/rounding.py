"""The one rounding of a merge: base plus merged delta, cast to the output's dtype."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.errors import NonFinite
from deltakit.lazy import LazyDelta
from deltakit.recipe import Recipe
from deltakit.strategies import Stack

if TYPE_CHECKING:
    from torch import Tensor


# The first magnitude that rounds past the largest value: half a step above it.
_OVERFLOWS = {"torch.float8_e4m3fn": 464.0, "torch.float8_e5m2": 61440.0}


def add_and_round(stored: LazyDelta, merged: Tensor, out: Tensor) -> bool:
    """Write the base + merged, flat float32 or float64, to `out`, rounded once to its dtype.

    Returns whether all of it is finite.

    Where the merged delta is zero the base's own value stays, its sign of zero included
    (-0.0 + 0.0 would be +0.0).
    """
    finite = kernels.add_and_round(stored.stored, merged, out)
    if finite is not None:
        return finite
    base = stored.tensor
    total = base + merged
    if _has_negative_zero(base):
        total = total.where(merged != 0, base)
    cast(total, out)
    # A finite sum has finite terms; the slower look is for the rest, and for sums that overflow.
    total.copy_(out)
    return math.isfinite(float(total.sum())) or bool(total.isfinite().all())


def _has_negative_zero(flat: Tensor) -> bool:
    """Tell whether -0.0 is there: the smallest integer of all, when bits are read as one."""
    import torch

    bits = flat.view(torch.int64 if flat.dtype == torch.float64 else torch.int32)
    return flat.numel() > 0 and int(bits.min()) == torch.iinfo(bits.dtype).min


def cast(flat: Tensor, out: Tensor) -> None:
    """Write `flat` to `out`, rounded to nearest even to its dtype; an overflow is not finite."""
    import torch

    overflows = _OVERFLOWS.get(str(out.dtype))
    if overflows is not None:  # torch would round what overflows these to their largest value
        flat, most = flat.float(), torch.finfo(out.dtype).max
        flat = flat.clamp(-most, most).masked_fill_(flat.abs() >= overflows, math.nan)
    out.copy_(flat)


def refuse_copied(result: Tensor, base: Tensor, name: str, start: int, recipe: Recipe) -> None:
    """Raise NonFinite when a tensor that no task changes does not fit the output's dtype."""
    bad = ~result.float().isfinite()
    if not bool(bad.any()):
        return
    entry = int(bad.nonzero()[0])
    finite = bool(base[entry].float().isfinite())
    raise NonFinite(
        f"the base's value overflows {result.dtype}"
        if finite
        else "the base holds NaN or infinity",
        where=f"{name!r}, flat index {start + entry}, {recipe.base}",
        remedy="write a wider --dtype" if finite else "repair it, or pass --allow-nonfinite",
    )


def refuse_nonfinite(result: Tensor, stack: Stack, merged: Tensor, recipe: Recipe) -> None:
    """Raise NonFinite for a result that holds NaN or infinity, saying where it came from."""
    wide = result.to(merged.dtype)
    entry = stack.start + int((~wide.isfinite()).nonzero()[0])
    where = f"{stack.name!r}, flat index {entry}"
    for delta, task in zip(stack.deltas, stack.tasks, strict=True):
        if not bool(delta.isfinite().all()):
            raise NonFinite(
                f"the delta of task {task!r} holds NaN or infinity",
                where=where,
                remedy="repair that model, or pass --allow-nonfinite",
            )
    if stack.base is not None and not bool(stack.base.isfinite().all()):
        raise NonFinite(
            "the base model holds NaN or infinity",
            where=f"{where}, {recipe.base}",
            remedy="repair the base, or pass --allow-nonfinite",
        )
    raise NonFinite(
        f"the merged value overflows {result.dtype}",
        where=where,
        remedy="write a wider --dtype, or merge with a smaller --scale",
    )
