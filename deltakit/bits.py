"""Bits that tell which entries are meant, and what stands for them, by the compiled loops.

Each function does nothing and says so where the kernels were not built or are turned off. Bits are
uint8, that of the first entry the lowest of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.drawn import How

if TYPE_CHECKING:
    import numpy as np

_SIZES = (1, 2, 4, 8)  # bytes of an entry


def draw_bits(how: How, count: int, bits: np.ndarray) -> bool:
    """Write which of `count` entries are kept to `bits`: uint8, the first in the lowest bit."""
    if kernels.compiled is None:
        return False
    kernels.compiled.draw_bits(how, count, bits.ctypes.data)
    return True


def count_bits(bits: np.ndarray, count: int, each: int, counts: np.ndarray) -> bool:
    """Write how many of the first `count` bits are set, up to the end of every `each`, to `counts`.

    bits uint8; each a multiple of 8; counts int64, one for every `each` bits begun.
    """
    if kernels.compiled is None:
        return False
    kernels.compiled.count_bits(bits.ctypes.data, count, each, counts.ctypes.data)
    return True


def mark(indices: np.ndarray, start: int, count: int, bits: np.ndarray) -> bool:
    """Set the bits of those indices, of 32 or 64 bits, that are among `count` entries from `start`.

    bits: uint8, that of the first entry the lowest of the first. False where not done.
    """
    if kernels.compiled is None or indices.itemsize not in (4, 8) or 8 * len(bits) < count:
        return False
    where, to = indices.ctypes.data, bits.ctypes.data
    kernels.compiled.mark(where, indices.itemsize, len(indices), start, count, to)
    return True


def differ(
    ours: np.ndarray,
    theirs: np.ndarray,
    size: int,
    values: np.ndarray | None = None,
    bits: np.ndarray | None = None,
) -> int | None:
    """Return how many entries of `size` bytes differ; write those of `ours` and bits where wanted.

    ours, theirs: uint8, of one length; values: as long. None where not done.
    """
    count = len(ours) // size
    if kernels.compiled is None or size not in _SIZES or len(theirs) != len(ours):
        return None
    if values is not None and len(values) < len(ours):
        return None
    if bits is not None and 8 * len(bits) < count:
        return None
    to = (0 if room is None else room.ctypes.data for room in (values, bits))
    found: int = kernels.compiled.differ(ours.ctypes.data, theirs.ctypes.data, size, count, *to)
    return found


def overwrite(values: np.ndarray, size: int, bits: np.ndarray, skip: int, out: np.ndarray) -> bool:
    """Put the next of `values` wherever bit skip + j of `bits` is set, as entry j of `out`.

    values, out: uint8, entries of `size` bytes. Raises ValueError where the bits set are not as
    many as the values. False where not done.
    """
    count, most = len(out) // size, len(values) // size
    if kernels.compiled is None or size not in _SIZES or 8 * len(bits) < skip + count:
        return False
    given = (values.ctypes.data, most, size, bits.ctypes.data, skip, count, out.ctypes.data)
    found = kernels.compiled.overwrite(*given)
    if found != most:
        raise ValueError(f"{found} bits stand for {most} values")
    return True
