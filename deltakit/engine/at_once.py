"""Merging trimmed deltas of a whole parameter in one pass, which finds the cuts on its way.

A sample tells between which two magnitudes each cut lies, most probably. What is above is kept and
what is below is not, so that nearly all entries are merged as they are read. The few between are
set apart; when all are read their number tells the cuts, and they are merged too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from deltakit import kernels
from deltakit.apart import PART, Apart
from deltakit.bracket import guess
from deltakit.cut import Cut
from deltakit.kernels import Found
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.magnitudes import Sieve, largest
from deltakit.ops import kept_count
from deltakit.stored import Entries, Filled, Stored, dtype_of
from deltakit.strategies import Method, Stack

LEAST = 1 << 18  # entries: of fewer no sample tells enough
_PLACES = 32  # of the sample
_INFINITY = 0x7F800000  # as a bit pattern

Range = tuple[int, int]  # of bit patterns, that a cut lies in


class AtOnce:
    """A thread's memory for merging parameters of up to so many entries of k experts at once."""

    def __init__(self, experts: int, entries: int) -> None:
        self._apart, self._sieve = Apart(experts, entries // PART), Sieve()

    def add_and_round(
        self, stack: Stack, method: Method, scale: float, out: Filled
    ) -> Found | None:
        """Write base + merged, rounded to its dtype, to flat `out`; the stack is a whole parameter.

        None, and `out` is to be written anew, where it has to be done block by block: where a file
        does not hold the entries as they are, where a sample misled or too many entries are alike,
        and where something is not finite, which is told apart and refused there.
        """
        base, deltas = stack.stored_base, stack.lazy
        assert isinstance(base, LazyDelta)
        assert method.trims is not None
        if not all(_in_file(each.stored) for each in (base, *deltas.each)):
            return None
        count = kept_count(out.numel(), method.trims)
        ranges = _ranges(deltas, count / out.numel())
        if ranges is None:
            return None

        self._apart.begin(
            dtype_of(base.stored), [dtype_of(delta.stored) for delta in deltas.each], ranges
        )
        surely = [Cut.at(high, 4, -1) for _, high in ranges]  # keeps only what is above
        every = method.of_trimmed(deltas.trimmed(surely, 0), stack).times(scale)
        found = every.add_to(base.stored, out, self._apart)
        if found is None or not _finite(found):
            return None

        shared = self._apart.base
        each = [
            LazyDelta(stored, None if delta.base is None else shared)
            for stored, delta in zip(self._apart.each, deltas.each, strict=True)
        ]
        cuts = _cuts(each, count, self._apart, self._sieve)
        if cuts is None:
            return None
        few, result = LazyDeltas(each, (self._apart.count,), "F32"), self._apart.result(out.dtype)
        before, after = (
            replace(every, deltas=few.trimmed(known, 0)).add_to(shared, result)
            for known in (surely, cuts)
        )
        if before is None or after is None or not _finite(after) or before.changed > after.changed:
            return None
        kernels.put(result, self._apart.places, out)
        merged = found.squares[-1] - before.squares[-1] + after.squares[-1]
        squares = (*found.squares[:-1], max(0.0, merged))
        return replace(found, changed=found.changed or after.changed, squares=squares)


def _ranges(deltas: LazyDeltas, share: float) -> list[Range] | None:
    """Return where the cuts are in all likelihood; None where that is no small part of all."""
    import numpy as np

    numel = deltas.each[0].numel()
    # The more are sampled the fewer are set apart, as the square root: this is about the cheapest.
    length = int(8 * numel ** (2 / 3)) // _PLACES
    starts = [place * numel // _PLACES for place in range(_PLACES)]
    sample = np.empty((len(deltas), _PLACES * length), dtype=np.int32)
    if not kernels.magnitudes(deltas.each, starts, length, sample):
        return None
    found = [guess(patterns, share) for patterns in sample]
    if sum(part for _, _, part in found) > 1 / PART:
        return None
    if any(high >= _INFINITY for _, high, _ in found):  # there was nothing above it in the sample
        return None
    return [(low, high) for low, high, _ in found]


def _cuts(deltas: Sequence[LazyDelta], count: int, apart: Apart, sieve: Sieve) -> list[Cut] | None:
    """Return the cuts, by indices among what was set apart; None where one is not there."""
    cuts = []
    for delta, (low, high), above in zip(deltas, apart.ranges, apart.above, strict=True):
        ((_, patterns, places),) = sieve.between([delta], [low], [high])
        if not 0 < count - above <= len(patterns):
            return None
        pattern, last = largest(patterns, count - above)
        cuts.append(Cut.at(pattern, 4, None if last is None else int(places[last])))
    return cuts


def _in_file(entries: Entries) -> bool:
    return isinstance(entries, Stored) and entries.place is not None


def _finite(found: Found) -> bool:
    return found.finite and all(map(math.isfinite, found.squares))
