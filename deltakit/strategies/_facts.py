"""Facts about whole parameters that several strategies need, each found by streaming, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

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
    depend on blocks or threads.
    """
    import numpy as np

    def find() -> np.ndarray:
        found = np.zeros((experts, experts))
        bases = iter(whole.base()) if of_models and whole.base is not None else None
        for _, block in side_by_side(whole, experts):
            wide = block.double()
            if bases is not None:
                wide += next(bases).double()
            rows = wide.numpy()
            for i in range(experts):
                for j in range(i, experts):
                    found[i, j] += np.add.reduce(rows[i] * rows[j])
        return np.triu(found) + np.triu(found, 1).T

    result: np.ndarray = whole.fact(("gram", of_models), find)
    return result


def cosines(products: np.ndarray) -> np.ndarray:
    """Return the cosines of a Gram matrix, NaN where a vector is zero."""
    import numpy as np

    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.clip(products / norms[:, None] / norms[None, :], -1.0, 1.0)
    return found


def cut_at(stack: Stack, expert: int, count: int) -> Cut:
    """Return where the `count` largest magnitudes of one expert's delta end."""
    whole = whole_of(stack)
    if count == 0:
        return Cut(float("inf"), -1)
    found: Cut = whole.fact(
        ("cut at", expert, count), lambda: find_cut(lambda: whole.blocks(expert), count)
    )
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
