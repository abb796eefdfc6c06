"""Trimming: keep exactly the k largest magnitudes of something too large to sort."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from deltakit.bracket import MOST_HELD, Bracket, cut_between, guess
from deltakit.cut import Cut
from deltakit.lazy import LazyDelta
from deltakit.magnitudes import Blocks, Sieve, from_top, index_of, patterns

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Called anew for each pass; yields consecutive blocks of several tensors, one beside the other.
SideBySide: TypeAlias = Callable[[], Iterable[Sequence["Tensor | LazyDelta"]]]

_FEW = 1 << 18  # entries that are held without more ado
_DIGIT = 16
_BINS = 1 << _DIGIT
_HIGHEST = (1 << 63) - 1  # above every bit pattern


def find_cut(blocks: Blocks, count: int) -> Cut:
    """Return the cut that keeps the `count` largest magnitudes, without sorting.

    >>> import torch
    >>> find_cut(lambda: [torch.tensor([1.0, -4.0]), torch.tensor([4.0, 0.5])], 1)
    Cut(threshold=4.0, last=1)

    Magnitudes of IEEE floats order as their bit patterns do. Up to 4 Mi entries are held and
    partitioned; of more, passes count the 16-bit digits of the patterns from the first on, until
    those that share the digits of the cut can be held. `count` is at least 1 and at most the number
    of entries.
    """
    return cut_between(blocks, count, 0, _HIGHEST) or _counted_cut(blocks, count)


def find_cuts(
    blocks: SideBySide, sample: SideBySide, counts: Sequence[int], numel: int
) -> list[Cut]:
    """Return the same cut of several tensors whose blocks are read side by side.

    >>> import torch
    >>> both = lambda: [[torch.tensor([1.0, -4.0]), torch.tensor([0.0, 1.0])]]
    >>> find_cuts(both, both, [1, 1], numel=2)
    [Cut(threshold=4.0, last=...), Cut(threshold=1.0, last=...)]

    `counts` tells how many each tensor keeps. A `sample` of the `numel` entries of each tells
    between which two patterns its cut lies in all likelihood: one pass over the blocks counts what
    is above and gathers what is between, and the cut is found among these. Where the sample misled,
    `find_cut` finds it.
    """
    import numpy as np

    sieve = Sieve()
    if numel <= _FEW:
        ranges = [(0, _HIGHEST) for _ in counts]
    else:
        seen = zip(*(_patterns(place, sieve) for place in sample()), strict=True)
        ranges = [
            guess(np.concatenate(each), count / numel)[:2]
            for each, count in zip(seen, counts, strict=True)
        ]
    most = MOST_HELD // min(2, len(ranges))
    brackets = [Bracket(n, *each, most) for n, each in zip(counts, ranges, strict=True)]
    still = list(range(len(brackets)))
    for block in blocks():
        each = [block[number] for number in still]
        lows = [brackets[number].low for number in still]
        highs = [brackets[number].high for number in still]
        found = sieve.between(each, lows, highs) if each else []
        still = [
            number
            for number, what in zip(still, found, strict=True)
            if brackets[number].take(*what, block[number].numel())
        ]
    cuts = []
    for number, bracket in enumerate(brackets):
        own = partial(_one, blocks, number)
        cut = bracket.cut(own) if number in still else None
        cuts.append(cut or find_cut(own, counts[number]))
    return cuts


def _patterns(blocks: Sequence[Tensor | LazyDelta], sieve: Sieve) -> list[np.ndarray]:
    number = len(blocks)
    found = sieve.between(blocks, [0] * number, [_HIGHEST] * number)
    return [values.copy() for _, values, _ in found]


def _one(blocks: SideBySide, number: int) -> Iterator[Tensor | LazyDelta]:
    return (block[number] for block in blocks())


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
