"""The one rounding of a merge: base plus merged delta, cast to the output's dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from deltakit.combination import Combination
from deltakit.dtypes import torch_dtype
from deltakit.errors import NonFinite
from deltakit.kernels import Found
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.recipe import Recipe
from deltakit.stored import Filled, in_memory
from deltakit.strategies import Stack

if TYPE_CHECKING:
    from torch import Tensor


# The first float32 that rounds past the largest value. Half a step above it lies 464, which rounds
# to the even of its neighbours, the largest value itself; and 61440, which rounds to infinity.
_OVERFLOWS = {"torch.float8_e4m3fn": 464.0 * (1 + 2.0**-23), "torch.float8_e5m2": 61440.0}


def add_and_round(
    base: LazyDelta, merged: Tensor | Combination, deltas: LazyDeltas, out: Filled
) -> Found:
    """Write the base + what is merged of `deltas`, flat, to `out`, rounded once to its dtype.

    Where the merged delta is zero the base's own value stays, its sign of zero included
    (-0.0 + 0.0 would be +0.0).
    """
    if not isinstance(merged, Combination):
        merged = Combination.sum(merged[None], [1.0])
    found = merged.add_to(base.stored, out)
    if found is None:
        return round_in_torch(base, merged.tensor, deltas, out.tensor)
    if merged.deltas.same_stored(deltas):
        return found
    return replace(found, squares=(*deltas.squares(), found.squares[-1]))


def round_in_torch(base: LazyDelta, merged: Tensor, deltas: LazyDeltas, out: Tensor) -> Found:
    """Do what `add_and_round` does, without kernels, wherever the tensors are."""
    import torch

    wide = base.tensor
    total = wide + merged
    if _has_negative_zero(wide):
        total = total.where(merged != 0, wide)
    cast(total, out)
    before = in_memory(base.stored)
    changed = (
        not out.view(torch.uint8).equal(before.view(torch.uint8))
        if before.dtype == out.dtype
        else bool(merged.any())
    )
    # A finite sum has finite terms; the slower look is for the rest, and for sums that overflow.
    total.copy_(out)
    finite = math.isfinite(float(total.sum())) or bool(total.isfinite().all())
    return Found(finite, changed, (*deltas.squares(), float(merged.dot(merged))))


def _has_negative_zero(flat: Tensor) -> bool:
    """Tell whether -0.0 is there: the smallest integer of all, when bits are read as one."""
    import torch

    bits = flat.view(torch.int64 if flat.dtype == torch.float64 else torch.int32)
    return flat.numel() > 0 and int(bits.min()) == torch.iinfo(bits.dtype).min


def cast(flat: Tensor, out: Tensor) -> None:
    """Write `flat` to `out`, rounded to nearest even to its dtype; an overflow is not finite."""
    import torch

    if flat.dtype == torch.float64 and out.element_size() < 4:
        flat = _odd(flat)
    overflows = _OVERFLOWS.get(str(out.dtype))
    if overflows is not None:  # torch would round what overflows these to their largest value
        most = torch.finfo(out.dtype).max
        flat = flat.clamp(-most, most).masked_fill_(flat.abs() >= overflows, math.nan)
    out.copy_(flat)


def _odd(flat: Tensor) -> Tensor:
    """Return float64 entries in float32, rounded to odd where they do not fit.

    What is rounded from there to a narrower dtype is what would be from float64 (Boldo and
    Melquiond, IEEE Transactions on Computers 57(4), 2008): float32 to nearest, then to nearest
    again, would at times go the wrong way.
    """
    import torch

    near = flat.float()
    back = near.double()
    bits = near.view(torch.int32)
    down = bits - (back.abs() > flat.abs()).int()  # towards zero
    odd = torch.where((back != flat) & flat.isfinite(), down | 1, bits)
    return odd.view(torch.float32)


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


def refuse_deltas(stack: Stack, squares: Sequence[float]) -> None:
    """Raise NonFinite for a delta that holds NaN or infinity, whatever became of it in the merge.

    `squares` are the sums of squares of each delta: where all are finite, all entries are.
    """
    for number, (square, task) in enumerate(zip(squares, stack.tasks, strict=True)):
        if math.isfinite(square):
            continue
        bad = ~stack.deltas[number].isfinite()
        if bool(bad.any()):
            entry = stack.start + int(bad.reshape(-1).nonzero()[0])
            raise NonFinite(
                f"the delta of task {task!r} holds NaN or infinity",
                where=f"{stack.name!r}, flat index {entry}",
                remedy="repair that model, or pass --allow-nonfinite",
            )


def refuse_result(result: Tensor, stack: Stack, recipe: Recipe) -> None:
    """Raise NonFinite for a result that holds NaN or infinity though no delta does."""
    wide = result.to(torch_dtype(stack.lazy.dtype))
    entry = stack.start + int((~wide.isfinite()).nonzero()[0])
    where = f"{stack.name!r}, flat index {entry}"
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
