"""Facts about whole parameters that several strategies need, each found by streaming, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.cut import Cut
from deltakit.strategies._stack import Stack
from deltakit.strategies._whole import Whole
from deltakit.trim import find_cut

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Values made of a block of all experts, from its deltas (k, n) and the flat index it begins at.
Derived = Callable[["Tensor", int], "Tensor"]


def whole_of(stack: Stack) -> Whole:
    """Return the facts of the whole parameter, which every stack has once it is made."""
    assert stack.whole is not None
    return stack.whole


def of_model(stack: Stack) -> Stack:
    """Return the stack as a slice of the whole model, so that its facts are the model's."""
    return dataclasses.replace(
        stack, whole=stack.model, start=stack.model_start + stack.start, model_start=0
    )


def side_by_side(whole: Whole, experts: int) -> Iterator[tuple[int, Tensor]]:
    """Yield flat blocks of all experts at once: their first index, and deltas (k, n)."""
    import torch

    each = [iter(whole.blocks(expert)) for expert in range(experts)]
    start = 0
    for first in each[0]:
        # A reader may use one buffer for all: each block is copied before the next is read.
        together = torch.empty(experts, len(first), dtype=first.dtype)
        together[0] = first
        for row, blocks in zip(together[1:], each[1:], strict=True):
            row.copy_(next(blocks))
        yield start, together
        start += len(first)


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
        for deltas, given in zip(whole.side_by_side(experts), bases, strict=False):
            lanes = np.zeros((len(first), kernels.LANES))
            if not kernels.gram(deltas, None if given is None else given.stored, lanes):
                wide = [row.tensor.double().numpy() for row in (*deltas, given) if row is not None]
                pairs = zip(first, second, strict=True)
                lanes = np.array([_lanes(wide[i], wide[j]) for i, j in pairs])
            found[first, second] += lanes.sum(axis=1)
        found = np.triu(found) + np.triu(found, 1).T
        if base is not None:
            found = found[:-1, :-1] + found[:-1, -1:] + found[-1:, :-1] + found[-1, -1]
        return found

    result: np.ndarray = whole.fact(("gram", of_models), find)
    return result


def _lanes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the sums of every 64th product, from the first, second, ... on: (64,)."""
    import numpy as np

    products = np.zeros(-(-len(left) // kernels.LANES) * kernels.LANES)
    np.multiply(left, right, out=products[: len(left)])
    return np.add.reduce(products.reshape(-1, kernels.LANES), axis=0)


def cosines(products: np.ndarray) -> np.ndarray:
    """Return the cosines of a Gram matrix, NaN where a vector is zero."""
    import numpy as np

    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.clip(products / norms[:, None] / norms[None, :], -1.0, 1.0)
    return found


def derived_cut(stack: Stack, key: object, values: Derived, count: int) -> Cut:
    """Return where the `count` largest of values made of all experts' deltas end."""
    whole, experts = whole_of(stack), len(stack.deltas)

    def blocks() -> Iterator[Tensor]:
        return (values(block, start) for start, block in side_by_side(whole, experts))

    found: Cut = whole.fact(("derived cut", key, count), lambda: find_cut(blocks, count))
    return found


def derived_totals(stack: Stack, key: object, values: Derived) -> list[float]:
    """Return the float64 sum, expert by expert, of values made of all deltas: (k, n) each."""
    import numpy as np

    whole, experts = whole_of(stack), len(stack.deltas)

    def find() -> list[float]:
        sums = [0.0] * experts
        for start, block in side_by_side(whole, experts):
            for expert, row in enumerate(values(block, start).numpy()):
                sums[expert] += float(np.add.reduce(row, dtype=np.float64))
        return sums

    found: list[float] = whole.fact(("derived totals", key), find)
    return found


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
