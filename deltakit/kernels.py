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

    from deltakit.lazy import LazyDelta, LazyDeltas

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


def _plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is plain memory: contiguous, on the CPU, out of autograd's sight."""
    import torch

    return (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.requires_grad
    )


def _take(*tensors: Tensor) -> bool:
    import torch

    return compiled is not None and all(
        tensor.dtype is torch.float32 and _plain(tensor) for tensor in tensors
    )


def _row(delta: LazyDelta, count: int) -> tuple[Any, ...] | None:
    """Return a delta as _kernels.c takes it, or None where it does not."""
    import torch

    stored, base, kept = delta.stored, delta.base, delta.kept
    code = _CODES.get(str(stored.dtype))
    if code is None or stored.numel() != count or not _plain(stored):
        return None
    base_code = 0 if base is None else _CODES.get(str(base.dtype))
    if base is not None and (base_code is None or base.numel() != count or not _plain(base)):
        return None
    if kept is not None and (
        kept.numel() != count or kept.dtype is not torch.bool or not _plain(kept)
    ):
        return None
    return (
        stored.data_ptr(),
        code,
        0 if base is None else base.data_ptr(),
        base_code,
        delta.threshold,
        delta.ties,
        0 if kept is None else kept.data_ptr(),
        delta.divisor,
    )


def _rows(deltas: LazyDeltas, *others: Tensor) -> tuple[tuple[Any, ...], ...] | None:
    if not _take(*others) or not 0 < len(deltas) <= _MOST_ROWS:
        return None
    count = others[0].numel()
    if any(other.numel() != count for other in others):
        return None
    rows = []
    for delta in deltas.each:
        row = _row(delta, count)
        if row is None:
            return None
        rows.append(row)
    return tuple(rows)


def load(delta: LazyDelta, out: Tensor) -> bool:
    """Out = the delta, computed."""
    row = _row(delta, out.numel()) if _take(out) else None
    if row is None:
        return False
    compiled.load((row,), out.numel(), out.data_ptr())
    return True


def squares(deltas: LazyDeltas) -> list[float] | None:
    """Return the sum of squares of each delta; None where not done."""
    import torch

    if compiled is None or deltas.dtype is not torch.float32:
        return None
    rows = [(_row(each, each.stored.numel()), each.stored.numel()) for each in deltas.each]
    if any(row is None for row, _ in rows):
        return None
    return [compiled.squares((row,), count) for row, count in rows]


def weighted_sum(deltas: LazyDeltas, weights: Sequence[float], out: Tensor) -> bool:
    """Out = sum_i w_i d_i, added in order."""
    rows = _rows(deltas, out)
    if rows is None:
        return False
    compiled.weighted_sum(rows, out.numel(), tuple(weights), out.data_ptr())
    return True


def elect_sign(deltas: LazyDeltas, weights: Sequence[float], out: Tensor) -> bool:
    """Out = sign of sum_i w_i d_i."""
    rows = _rows(deltas, out)
    if rows is None:
        return False
    compiled.elect_sign(rows, out.numel(), tuple(weights), out.data_ptr())
    return True


def disjoint(
    deltas: LazyDeltas,
    elected: Tensor,
    weights: Sequence[float],
    divisors: Sequence[float] | None,
    out: Tensor,
) -> bool:
    """Out = sum of w_i d_i over those of the elected sign, divided by the sum of their divisors."""
    rows = _rows(deltas, out, elected)
    if rows is None:
        return False
    shares = None if divisors is None else tuple(divisors)
    compiled.disjoint(rows, out.numel(), elected.data_ptr(), tuple(weights), shares, out.data_ptr())
    return True


def draw(words: np.ndarray, whole: int, kept: np.ndarray) -> np.ndarray | None:
    """Write words < whole to `kept`; return where they are equal, None where not done.

    words uint16, kept bool, both (n,).
    """
    import numpy as np

    if compiled is None:
        return None
    places = np.empty(len(words), dtype=np.int32)
    count = compiled.draw(
        words.ctypes.data, len(words), whole, kept.ctypes.data, places.ctypes.data
    )
    return places[:count]


def add_and_round(base: Tensor, merged: Tensor, out: Tensor) -> bool | None:
    """Out = base + merged in out's dtype; return whether all is finite, None where not done."""
    code, base_code = _CODES.get(str(out.dtype)), _CODES.get(str(base.dtype))
    if code is None or base_code is None or not (_plain(out) and _plain(base) and _take(merged)):
        return None
    if not base.numel() == merged.numel() == out.numel():
        return None
    finite: bool = compiled.add_and_round(
        base.data_ptr(), base_code, merged.data_ptr(), out.numel(), code, out.data_ptr()
    )
    return finite


def bracket(
    delta: LazyDelta, low: int, high: int, values: np.ndarray, places: np.ndarray
) -> tuple[int, int] | None:
    """Count bit patterns of magnitudes above `high`, write those in low..high and their places.

    values, places int32, at least as long as the delta. Returns both counts, None where not done.
    """
    count = delta.numel()
    row = _row(delta, count) if compiled is not None else None
    if row is None or min(len(values), len(places)) < count or high >= 1 << 31:
        return None
    counts: tuple[int, int] = compiled.bracket(
        (row,), count, low, high, values.ctypes.data, places.ctypes.data
    )
    return counts


def scatter(values: Tensor, bits: np.ndarray, skip: int, base: Tensor | None, out: Tensor) -> bool:
    """out[j] = the next value, minus base[j], wherever bit skip + j of `bits` (bytes) is set.

    Raises ValueError when the bits set are not as many as the values.
    """
    code = _CODES.get(str(values.dtype))
    if code is None or not _plain(values) or not _take(*([out] if base is None else [out, base])):
        return False
    if 8 * len(bits) < skip + out.numel() or (base is not None and base.numel() != out.numel()):
        return False
    at = 0 if base is None else base.data_ptr()
    given = (values.data_ptr(), values.numel(), code, bits.ctypes.data, skip, out.numel())
    found = compiled.scatter(*given, at, out.data_ptr())
    if found != values.numel():
        raise ValueError(f"{found} bits stand for {values.numel()} values")
    return True
