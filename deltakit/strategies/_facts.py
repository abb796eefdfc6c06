"""Facts about whole parameters that several strategies need, each found by streaming, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.cut import Cut
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.strategies._stack import Stack
from deltakit.strategies._whole import LONG, SHORT, Whole
from deltakit.trim import find_cuts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def whole_of(stack: Stack) -> Whole:
    """Return the facts of the whole parameter, which every stack has once it is made."""
    assert stack.whole is not None
    return stack.whole


def of_model(stack: Stack) -> Stack:
    """Return the stack as a slice of the whole model, so that its facts are the model's."""
    return dataclasses.replace(
        stack, whole=stack.model, start=stack.model_start + stack.start, model_start=0
    )


def gram(whole: Whole, experts: int, *, of_models: bool = False) -> np.ndarray:
    """Return the inner products of the experts' deltas, or models, in float64: (k, k).

    Products of float32 numbers are exact in float64, and are added in an order that does not
    depend on threads: entry n of a block to sum n % 64. Those of models t_0 + d_i follow from the
    products of all d_i and t_0.
    """
    import numpy as np

    def find() -> np.ndarray:
        base = whole.base if of_models else None
        rows = experts + (base is not None)
        first, second = np.triu_indices(rows)
        found = np.zeros((rows, rows))
        bases = base() if base is not None else repeat(None)
        for deltas, given in zip(whole.side_by_side(experts, LONG), bases, strict=False):
            lanes = np.zeros((len(first), kernels.LANES))
            if not kernels.gram(deltas, None if given is None else given.stored, lanes):
                narrow = [row.tensor for row in (*deltas, given) if row is not None]
                for at in range(0, len(narrow[0]), SHORT):
                    wide = [row[at : at + SHORT].double().numpy() for row in narrow]
                    for lane, i, j in zip(lanes, first, second, strict=True):
                        _add_products(lane, wide[i], wide[j])
            found[first, second] += lanes.sum(axis=1)
        found = np.triu(found) + np.triu(found, 1).T
        if base is not None:
            found = found[:-1, :-1] + found[:-1, -1:] + found[-1:, :-1] + found[-1, -1]
        return found

    result: np.ndarray = whole.fact(("gram", of_models), find)
    return result


def _add_products(lanes: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Add every 64th product, from the first, second, ... on, to each of `lanes`: (64,)."""
    import numpy as np

    rows = np.zeros((1 - (-len(left) // kernels.LANES), kernels.LANES))
    rows[0] = lanes
    np.multiply(left, right, out=rows[1:].reshape(-1)[: len(left)])
    np.add.reduce(rows, axis=0, out=lanes)


def cosines(products: np.ndarray) -> np.ndarray:
    """Return the cosines of a Gram matrix, NaN where a vector is zero."""
    import numpy as np

    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.clip(products / norms[:, None] / norms[None, :], -1.0, 1.0)
    return found


def derived_cuts(
    whole: Whole,
    experts: int,
    key: object,
    values: Callable[[Tensor], Iterable[Tensor]],
    counts: Sequence[int],
) -> list[Cut]:
    """Return where the largest of each row of `values` end: so many of it as `counts` says.

    `values` makes flat rows of a block of all experts' deltas, (k, n); a row may come twice.
    """

    def made(blocks: Iterable[Sequence[LazyDelta]]) -> Iterator[list[Tensor]]:
        return (list(values(_computed(block))) for block in blocks)

    def find() -> list[Cut]:
        # Where they end does not depend on the blocks, and what scores are made of takes memory.
        entries = _entries(experts) // 2
        return find_cuts(
            lambda: made(whole.side_by_side(experts, entries)),
            lambda: made(whole.sample(experts)),
            counts,
            whole.numel,
        )

    found: list[Cut] = whole.fact(("derived cuts", key, *counts), find)
    return found


def derived_totals(
    whole: Whole, experts: int, key: object, values: Callable[[Tensor, int], Tensor]
) -> list[float]:
    """Return the float64 sum of each row of `values`.

    They are made of a block of all experts' deltas and the flat index it begins at:
    (k, n) -> (rows, n), at most k rows; the sums of further ones are 0.
    """
    import numpy as np

    def find() -> list[float]:
        sums, start = [0.0] * experts, 0
        for block in whole.side_by_side(experts, _entries(experts)):
            for expert, row in enumerate(values(_computed(block), start).numpy()):
                sums[expert] += float(np.add.reduce(row, dtype=np.float64))
            start += block[0].numel()
        return sums

    found: list[float] = whole.fact(("derived totals", key), find)
    return found


def _entries(experts: int) -> int:
    """Return the entries of a block of which all experts' deltas are computed: fewer of many."""
    return max(1, 2 * SHORT // max(2, experts) // 1024) * 1024


def _computed(block: Sequence[LazyDelta]) -> Tensor:
    """Return the deltas of all experts: (k, n)."""
    return LazyDeltas(block, (block[0].numel(),), block[0].dtype).tensor


def squares(whole: Whole, expert: int) -> list[float]:
    """Return the float64 sum of one expert's squared deltas in each part of a whole."""
    import numpy as np

    def find() -> list[float]:
        sums, part, left = [0.0] * len(whole.parts), 0, whole.parts[0]
        for block in whole.blocks(expert):
            wide, at = block.double().numpy(), 0
            while at < len(wide):
                while left == 0:
                    part += 1
                    left = whole.parts[part]
                piece = wide[at : at + left]
                sums[part] += float(np.add.reduce(piece * piece))
                at += len(piece)
                left -= len(piece)
        return sums

    found: list[float] = whole.fact(("squares", expert), find)
    return found
