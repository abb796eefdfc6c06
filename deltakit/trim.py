"""Trimming: keep exactly the k largest magnitudes of something too large to sort."""

from __future__ import annotations

from deltakit.bracket import MOST_HELD, cut_between, guess
from deltakit.cut import Cut
from deltakit.magnitudes import Blocks, from_top, index_of, patterns

_FEW = 1 << 18  # entries that are held without more ado
_DIGIT = 16
_BINS = 1 << _DIGIT
_HIGHEST = (1 << 63) - 1  # above every bit pattern


def find_cut(
    blocks: Blocks, count: int, numel: int | None = None, sample: Blocks | None = None
) -> Cut:
    """Return the cut that keeps the `count` largest magnitudes, without sorting.

    >>> import torch
    >>> find_cut(lambda: [torch.tensor([1.0, -4.0]), torch.tensor([4.0, 0.5])], 1)
    Cut(threshold=4.0, last=1)

    Magnitudes of IEEE floats order as their bit patterns do. A `sample` of the `numel` entries
    tells between which two patterns the cut lies in all likelihood: one pass over the blocks counts
    what is above and gathers what is between, and the cut is found among these. Where the sample
    misled, or there is none: up to 4 Mi entries are held and partitioned; of more, passes count the
    16-bit digits of the patterns from the first on, until those that share the digits of the cut
    can be held. All ways give the same cut. `count` is at least 1 and at most the number of
    entries.
    """
    found = None
    if sample is not None and numel is not None and numel > _FEW:
        found = cut_between(blocks, count, *guess(sample, count / numel))
    found = found or cut_between(blocks, count, 0, _HIGHEST)
    return found or _counted_cut(blocks, count)


def _counted_cut(blocks: Blocks, count: int) -> Cut:
    import numpy as np

    prefix, wanted, level, nbytes = 0, count, 0, 4
    while level * _DIGIT < nbytes * 8:
        counts = np.zeros(_BINS, dtype=np.int64)
        for block in blocks():
            bits = patterns(block)
            nbytes = bits.dtype.itemsize
            shift = nbytes * 8 - (level + 1) * _DIGIT
            if level:
                bits = bits[bits >> (shift + _DIGIT) == prefix]
            counts += np.bincount((bits >> shift) & (_BINS - 1), minlength=_BINS)
        digit, above = from_top(counts, wanted)
        wanted -= above
        prefix = prefix << _DIGIT | digit
        level += 1
        if counts[digit] <= MOST_HELD:
            low = prefix << shift
            found = cut_between(blocks, count, low, low + (1 << shift) - 1)
            assert found is not None
            return found
    last = None if wanted == counts[digit] else index_of(blocks, prefix, wanted)
    return Cut.at(prefix, nbytes, last)
