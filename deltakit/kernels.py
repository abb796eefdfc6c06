"""The compiled inner loops, for the tensors they take.

Each function does what the torch code beside its call would, bit for bit; or it does nothing and
says so, where the kernels were not built, are turned off (`DELTAKIT_KERNELS=0` in the environment),
a tensor is not plain, contiguous float32 on the CPU, or a file does not give what it should (torch
then reads it again, and the error is raised there).
"""

from __future__ import annotations

import importlib
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deltakit.apart import Apart
from deltakit.drawn import Drawn
from deltakit.dtypes import itemsize
from deltakit.formula import Formula
from deltakit.stored import Entries, Filled, Stored, StoredSparse, dtype_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from deltakit.lazy import LazyDelta, LazyDeltas

_MOST_ROWS = 256  # as in native/delta.h
_STRETCH = 1 << 16  # as there: entries read at a time, of those that do not stand by bits
_MOST_PLACES = 1 << 31  # of which indices are told in 32 bits
LANES = 64  # as in native/combine.h
_INTERFACE = 9  # as in native/kernels.c: those left by an earlier build are not called


def _load() -> Any:
    if os.environ.get("DELTAKIT_KERNELS") == "0":
        return None
    try:
        built = importlib.import_module("deltakit._kernels")
    except ImportError:
        return None
    return built if getattr(built, "INTERFACE", None) == _INTERFACE else None


compiled: Any = _load()


_CODES = {"F32": 0, "BF16": 1, "F16": 2}  # as in native/floats.h
DTYPES = frozenset(_CODES)  # what they take


def take(dtypes: Collection[str]) -> bool:
    """Tell whether there are kernels, and they take all these dtypes."""
    return compiled is not None and DTYPES.issuperset(dtypes)


def _plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is plain memory: contiguous, on the CPU, out of autograd's sight."""
    import torch

    return (
        type(tensor) is torch.Tensor
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not tensor.requires_grad
    )


def _take(tensor: Tensor) -> bool:
    import torch

    return compiled is not None and tensor.dtype is torch.float32 and _plain(tensor)


def _entries(
    entries: Entries, count: int, at_a_time: int = _STRETCH
) -> tuple[int, int, int, int] | None:
    """Return entries as the kernels take them (`Values` in native/delta.h), None where not."""
    code = _CODES.get(dtype_of(entries))
    if code is None or entries.numel() != count or isinstance(entries, StoredSparse):
        return None
    if isinstance(entries, Stored):
        if entries.place is not None:
            holds = len(entries.raw) >= min(count, at_a_time) * itemsize(entries.dtype)
            return (entries.raw.ctypes.data, code, *entries.place) if holds else None
        entries = entries.tensor
    address = _address(entries)
    return None if address is None else (address, code, -1, 0)


def _address(entries: Tensor | Filled) -> int | None:
    """Return where entries lie, None where that is no plain memory."""
    if isinstance(entries, Filled):
        return entries.raw.ctypes.data
    return entries.data_ptr() if _plain(entries) else None


def _row(delta: LazyDelta, count: int, base: Entries | None) -> tuple[object, ...] | None:
    """Return a delta as the kernels take it (`Delta` in native/delta.h), or None where they do not.

    All deltas of a call have one base, or none.
    """
    stored, kept, how = delta.stored, delta.kept, None
    bits, skip, left = 0, 0, 0
    if isinstance(stored, StoredSparse):
        if stored.numel() != count or 8 * len(stored.bits) < stored.skip + count:
            return None
        bits, skip, left = stored.bits.ctypes.data, stored.skip, stored.values.numel()
        values = _entries(stored.values, left, left)
    else:
        values = _entries(stored, count)
    if values is None or not (delta.base is None or delta.base is base):
        return None
    if isinstance(kept, Drawn):
        how, kept = kept.how, None
    if kept is not None and (kept.numel() != count or dtype_of(kept) != "BOOL" or not _plain(kept)):
        return None
    return (
        values,
        delta.base is not None,
        delta.threshold,
        delta.ties,
        0 if kept is None else kept.data_ptr(),
        how,
        delta.divisor,
        bits,
        skip,
        left,
        delta.highest,
        delta.top_ties,
    )


def _common_base(deltas: Sequence[LazyDelta]) -> Entries | None:
    return next((delta.base for delta in deltas if delta.base is not None), None)


def _together(
    deltas: Sequence[LazyDelta], base: Entries | None
) -> tuple[tuple[object, ...], object] | None:
    """Return deltas and the base they share as the kernels take them, or None where they do not."""
    if compiled is None or not 0 < len(deltas) <= _MOST_ROWS:
        return None
    count = deltas[0].numel()
    shared = None if base is None else _entries(base, count)
    rows = tuple(_row(delta, count, base) for delta in deltas)
    return None if None in rows or (base is not None and shared is None) else (rows, shared)


@dataclass(frozen=True)
class Found:
    """What a pass over deltas found on its way."""

    finite: bool  # the result, where it was added to the base
    changed: bool  # whether any of it differs from the base
    squares: tuple[float, ...]  # sums of squares: of each delta before it is thinned, and merged


def combine(
    deltas: LazyDeltas,
    formula: Formula,
    out: Tensor | Filled | None = None,
    base: Entries | None = None,
    *,
    squares: bool = False,
    apart: Apart | None = None,
) -> Found | None:
    """Out = the formula of the deltas; with a base, out = base + that, rounded to its dtype.

    Without `out`, only squares are found. Of deltas that are stored whole, entries may be set
    `apart`, with a base: what these become is to be replaced. None where that has no room for them.
    """
    if compiled is None or not len(deltas) or deltas.dtype != "F32":
        return None
    count = deltas.each[0].numel()
    code = 0 if out is None else _CODES.get(dtype_of(out))
    adds = base is not None and out is not None
    if code is None or (code and not adds):
        return None
    address = 0 if out is None else _address(out)
    if address is None or (out is not None and out.numel() != count):
        return None
    if apart is not None and not (adds and count < _MOST_PLACES):
        return None
    taken = _together(deltas.each, _common_base(deltas.each) if base is None else base)
    if taken is None:
        return None
    rows, shared = taken
    given = tuple(tuple(part) if isinstance(part, list) else part for part in formula)
    aside = None if apart is None else apart.given
    found = compiled.combine(rows, count, given, shared, address, code, adds, squares, aside)
    if found is None:
        return None
    finite, changed, sums, left, was_set = found
    if apart is not None:
        apart.count, apart.above = was_set
    if any(left):
        raise ValueError("bits and values of a sparse delta are not equally many")
    return Found(finite, changed, sums)


def put(entries: Filled, places: np.ndarray, out: Filled) -> None:
    """out[places] = entries, of one dtype that the kernels take; places int32."""
    code = _CODES[entries.dtype]
    where = places.ctypes.data
    compiled.put(entries.raw.ctypes.data, code, where, len(places), out.raw.ctypes.data)


@dataclass(frozen=True)
class Sparsified:
    """What was found of a delta that is to be stored."""

    staying: int  # entries that are not 0, neither thinned nor as they are stored
    kept: int  # entries that the random mask keeps
    highest: float  # the largest magnitude before any is taken away; NaN where one is
    rounded: bool  # whether the value of any that is not taken away was


Whose = Literal["staying", "kept", "every"]
_WHOSE: dict[Whose, int] = {"staying": 0, "kept": 1, "every": 2}  # as in native/sparsify.h


def sparsify(
    delta: LazyDelta,
    dtype: str,
    whose: Whose = "staying",
    values: np.ndarray | None = None,
    bits: np.ndarray | None = None,
) -> Sparsified | None:
    """Look for what of a delta a file is to hold, and write its values and bits where wanted.

    Values of those staying, of those kept at random (0 or not), or of every entry (0 where it does
    not stay), rounded to `dtype`, to `values`: uint8, with room for all. Which stay to
    `bits`: uint8, the first in the lowest bit. None where not done.
    """
    count, code = delta.numel(), _CODES.get(dtype)
    if code is None or delta.dtype != "F32" or isinstance(delta.stored, StoredSparse):
        return None
    if values is not None and len(values) < count * itemsize(dtype):
        return None
    if bits is not None and 8 * len(bits) < count:
        return None
    taken = _together([delta], delta.base)
    if taken is None:
        return None
    rows, shared = taken
    to = tuple(0 if room is None else room.ctypes.data for room in (values, bits))
    found = compiled.sparsify(rows, count, shared, code, _WHOSE[whose], *to)
    if found is None:
        return None
    staying, kept, highest, rounded = found
    return Sparsified(staying, kept, struct.unpack("<f", struct.pack("<I", highest))[0], rounded)


def magnitudes(
    deltas: Sequence[LazyDelta], starts: Sequence[int], length: int, out: np.ndarray
) -> bool:
    """Write the bit patterns of magnitudes of `length` entries from each start on.

    Of deltas that are stored whole, to out: int32 (k, starts * length). False where not done.
    """
    taken = _together(deltas, _common_base(deltas))
    if taken is None or any(isinstance(delta.stored, StoredSparse) for delta in deltas):
        return False
    done: bool = compiled.magnitudes(*taken, tuple(starts), length, out.ctypes.data)
    return done


def bracket(
    deltas: Sequence[LazyDelta], lows: Sequence[int], highs: Sequence[int], room: np.ndarray
) -> list[tuple[int, int]] | None:
    """For each delta: count bit patterns of magnitudes above its `high`, and in low..high.

    Those in low..high and their places are written to `room`, int32 (k, 2, more than entries).
    Returns both counts of each, None where not done.
    """
    count = deltas[0].numel()
    taken = _together(deltas, _common_base(deltas))
    if taken is None or not count < min(room.shape[2], _MOST_PLACES):
        return None
    rows, shared = taken
    addresses = [(values.ctypes.data, places.ctypes.data) for values, places in room]
    brackets = tuple(
        (low, high, *where) for low, high, where in zip(lows, highs, addresses, strict=True)
    )
    counts = compiled.bracket(rows, count, shared, brackets)
    return None if counts is None else list(zip(counts[::2], counts[1::2], strict=True))


def gram(deltas: Sequence[LazyDelta], base: Entries | None, lanes: np.ndarray) -> bool:
    """Add the products of deltas, as they come and not thinned, and of a base as one more row.

    Products of each pair of rows i <= j go to a row of `lanes`, float64 (pairs, LANES): that of
    entry n to lane n % LANES. False where not done.
    """
    common = _common_base(deltas)  # where there is a base too, they are the same numbers
    taken = _together(deltas, base if common is None else common)
    if taken is None:
        return False
    (rows, shared), count = taken, deltas[0].numel()
    done: bool = compiled.gram(rows, count, shared, base is not None, lanes.ctypes.data)
    return done


def scatter(values: Tensor, bits: np.ndarray, skip: int, base: Tensor | None, out: Tensor) -> bool:
    """out[j] = the next value, minus base[j], wherever bit skip + j of `bits` (bytes) is set.

    Raises ValueError when the bits set are not as many as the values.
    """
    code = _CODES.get(dtype_of(values))
    if code is None or not _plain(values) or not _take(out):
        return False
    if base is not None and (not _take(base) or base.numel() != out.numel()):
        return False
    if 8 * len(bits) < skip + out.numel():
        return False
    at = 0 if base is None else base.data_ptr()
    given = (values.data_ptr(), values.numel(), code, bits.ctypes.data, skip, out.numel())
    found = compiled.scatter(*given, at, out.data_ptr())
    if found != values.numel():
        raise ValueError(f"{found} bits stand for {values.numel()} values")
    return True
