"""The compiled inner loops, for the tensors they take.

Each function writes to `out` what the torch code beside its call would, bit for bit, and returns
True; or it does nothing and returns False, where the kernels were not built, are turned off
(`DELTAKIT_KERNELS=0` in the environment), or a tensor is not plain, contiguous float32 on the CPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_MOST_ROWS = 256  # as in _kernels.c
_CODES = {"torch.float32": 0, "torch.bfloat16": 1, "torch.float16": 2}


def _load() -> Any:
    if os.environ.get("DELTAKIT_KERNELS") == "0":
        return None
    try:
        return importlib.import_module("deltakit._kernels")
    except ImportError:
        return None


compiled: Any = _load()


def _take(*tensors: Tensor) -> bool:
    import torch

    return compiled is not None and all(
        type(tensor) is torch.Tensor
        and tensor.dtype is torch.float32
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.requires_grad
        for tensor in tensors
    )


def _code(tensor: Tensor) -> int | None:
    """Return the kernels' number for the dtype of stored values; None where they have none."""
    fits = compiled is not None and tensor.device.type == "cpu" and tensor.is_contiguous()
    return _CODES.get(str(tensor.dtype)) if fits else None


def difference(stored: Tensor, base: Tensor | None, out: Tensor) -> bool:
    """Out = stored - base in float32, or stored alone, widened."""
    code = _code(stored)
    if code is None or not _take(out) or (base is not None and not _take(base)):
        return False
    if stored.numel() != out.numel() or (base is not None and base.numel() != out.numel()):
        return False
    at = 0 if base is None else base.data_ptr()
    compiled.difference(stored.data_ptr(), code, at, out.data_ptr(), out.numel())
    return True


def _takes_rows(deltas: Tensor, *rows: Tensor) -> bool:
    return (
        0 < len(deltas) <= _MOST_ROWS
        and _take(deltas, *rows)
        and all(row.numel() * len(deltas) == deltas.numel() for row in rows)
    )


def weighted_sum(deltas: Tensor, weights: Sequence[float], out: Tensor) -> bool:
    """Out = sum_i w_i d_i, added in order."""
    if not _takes_rows(deltas, out):
        return False
    compiled.weighted_sum(
        deltas.data_ptr(), len(deltas), out.numel(), tuple(weights), out.data_ptr()
    )
    return True


def elect_sign(deltas: Tensor, weights: Sequence[float], out: Tensor) -> bool:
    """Out = sign of sum_i w_i d_i."""
    if not _takes_rows(deltas, out):
        return False
    compiled.elect_sign(deltas.data_ptr(), len(deltas), out.numel(), tuple(weights), out.data_ptr())
    return True


def disjoint(
    deltas: Tensor,
    elected: Tensor,
    weights: Sequence[float],
    divisors: Sequence[float] | None,
    out: Tensor,
) -> bool:
    """Out = sum of w_i d_i over those of the elected sign, divided by the sum of their divisors."""
    if not _takes_rows(deltas, elected, out):
        return False
    compiled.disjoint(
        deltas.data_ptr(),
        len(deltas),
        out.numel(),
        elected.data_ptr(),
        tuple(weights),
        None if divisors is None else tuple(divisors),
        out.data_ptr(),
    )
    return True


def shrink(flat: Tensor, threshold: float, out: Tensor) -> bool:
    """Out = flat, with magnitudes up to the threshold set to 0."""
    if not _take(flat, out) or flat.numel() != out.numel():
        return False
    compiled.shrink(flat.data_ptr(), flat.numel(), threshold, out.data_ptr())
    return True


def keep(delta: Tensor, kept: Tensor, divisor: float, out: Tensor) -> bool:
    """Out = delta times kept (bool, as 0 and 1), over the divisor."""
    import torch

    if not _take(delta, out) or not delta.numel() == kept.numel() == out.numel():
        return False
    if kept.dtype is not torch.bool or not kept.is_contiguous() or kept.device.type != "cpu":
        return False
    compiled.keep(delta.data_ptr(), kept.data_ptr(), delta.numel(), divisor, out.data_ptr())
    return True


def add_and_round(base: Tensor, merged: Tensor, out: Tensor) -> bool | None:
    """Out = base + merged in out's dtype; return whether all is finite, None where not done."""
    code = _code(out)
    if code is None or not _take(base, merged):
        return None
    if not base.numel() == merged.numel() == out.numel():
        return None
    finite: bool = compiled.add_and_round(
        base.data_ptr(), merged.data_ptr(), out.numel(), code, out.data_ptr()
    )
    return finite


def bracket(
    flat: Tensor, low: int, high: int, values: np.ndarray, places: np.ndarray
) -> tuple[int, int] | None:
    """Count bit patterns of magnitudes above `high`, write those in low..high and their places.

    values, places int32, each one longer than `flat`. Returns both counts, None where not done.
    """
    if not _take(flat) or min(len(values), len(places)) <= flat.numel() or high >= 1 << 31:
        return None
    counts: tuple[int, int] = compiled.bracket(
        flat.data_ptr(), flat.numel(), low, high, values.ctypes.data, places.ctypes.data
    )
    return counts


def scatter(values: Tensor, bits: np.ndarray, skip: int, base: Tensor | None, out: Tensor) -> bool:
    """out[j] = the next value, minus base[j], wherever bit skip + j of `bits` (bytes) is set."""
    code = _code(values)
    if code is None or not _take(out) or (base is not None and not _take(base)):
        return False
    at = 0 if base is None else base.data_ptr()
    compiled.scatter(
        values.data_ptr(), code, bits.ctypes.data, skip, out.numel(), at, out.data_ptr()
    )
    return True
