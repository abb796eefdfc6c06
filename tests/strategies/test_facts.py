"""Facts about whole parameters that are made of all experts' deltas at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from deltakit.lazy import LazyDelta
from deltakit.strategies import Stack, Whole
from deltakit.strategies._facts import derived_cuts, derived_totals, whole_of
from deltakit.strategies._whole import Together
from tests.strategies.stacks import random_deltas


def in_blocks(deltas: Tensor, length: int) -> Whole:
    """Return the facts of deltas that are read side by side, in blocks and in samples."""

    def blocks(experts: Sequence[int], _: int = 0) -> Iterator[list[LazyDelta]]:
        parts = [deltas[expert].split(length) for expert in experts]
        return ([LazyDelta(part) for part in each] for each in zip(*parts, strict=True))

    def sample(experts: Sequence[int]) -> Iterator[list[LazyDelta]]:
        return iter([[LazyDelta(deltas[expert, ::50]) for expert in experts]])

    together = Together(len(deltas), blocks, sample, lambda _: deltas.shape[1])
    return Whole(deltas.shape[1], lambda expert: deltas[expert].split(length), together=together)


def products(deltas: Tensor) -> Tensor:
    """Return two rows of float64, of which neither is a delta."""
    wide = deltas.double()
    return torch.stack([wide[0] * wide[1], wide.sum(0)])


@pytest.mark.parametrize("count", [1, 17, 60_000])
@pytest.mark.parametrize("numel", [1000 * 100, 3 * 100_003])  # held at once, and looked for
@pytest.mark.parametrize("beside", [True, False])
def test_derived_cuts_keep_just_the_largest_of_each_row(
    beside: bool, numel: int, count: int
) -> None:
    deltas = random_deltas(3, numel)
    whole = in_blocks(deltas, 70_000) if beside else whole_of(Stack(deltas))
    counts = [count, count + 5]
    cuts = derived_cuts(whole, 3, "products", products, counts)
    for cut, row, kept_of_row in zip(cuts, products(deltas), counts, strict=True):
        kept = cut.keeps(row, 0)
        assert int(kept.sum()) == kept_of_row
        assert row[kept].abs().min() >= row[~kept].abs().max()


@pytest.mark.parametrize("length", [7, 300])
def test_derived_totals_are_sums_over_all_blocks_that_know_where_they_begin(length: int) -> None:
    deltas = random_deltas(3, 300)
    begins: list[int] = []

    def values(block: Tensor, start: int) -> Tensor:
        begins.append(start)
        return block.double() * 2.0

    found = derived_totals(in_blocks(deltas, length), 3, "twice", values)
    assert found == pytest.approx(deltas.double().sum(1).mul(2.0).tolist())
    assert begins == list(range(0, 300, length))
