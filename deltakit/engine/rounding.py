"""The one rounding of a merge: base plus merged delta, cast to the output's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit.errors import NonFinite
from deltakit.recipe import Recipe
from deltakit.strategies import Stack
from deltakit.tensors.dtypes import torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


def add_and_round(base: Tensor, merged: Tensor, dtype: str) -> Tensor:
    """Return base + merged rounded once to `dtype`: flat float32 or float64 in, (n,) out.

    Where the merged delta is zero the base's own value stays, its sign of zero included
    (-0.0 + 0.0 would be +0.0).
    """
    total = base + merged
    zeros = total == 0
    if bool(zeros.any()):
        total = total.where(merged != 0, base)
    return cast(total, dtype)


def cast(flat: Tensor, dtype: str) -> Tensor:
    """Return the tensor in another dtype, rounded to nearest even."""
    return flat.to(torch_dtype(dtype))


def refuse_nonfinite(result: Tensor, stack: Stack, merged: Tensor, recipe: Recipe) -> None:
    """Raise NonFinite, saying where it came from, when a result holds NaN or infinity."""
    wide = result.to(merged.dtype)
    if bool(wide.isfinite().all()):
        return
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
