"""Merging bfloat16 in registers gives the bits of the portable loops, and those of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltakit import kernels
from deltakit.combination import Combination
from deltakit.engine.rounding import add_and_round
from deltakit.formula import Formula
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.rng import Draws
from deltakit.stored import StoredSparse, in_memory
from tests.kernels import room_for, without_kernels, without_loops_by_hand

pytestmark = pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")

RUN = 4096  # entries that are fused at a time
NUMEL = 2 * RUN + 3 * 64  # a rest that is fused, too
LONG = 40 * RUN
KINDS = ["plain", "trimmed", "between", "drawn", "sparse", "mixed"]
BAD = [float("nan"), -float("nan"), float("inf"), -float("inf")]


def bf16(count: int, seed: int, scale: float = 1.0) -> Tensor:
    """Return numbers on a coarse grid, so that many are level, opposite or zero."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-8, 9, (count,), generator=generator) * scale
    numbers[torch.rand(count, generator=generator) < 0.01] = -0.0
    return numbers.to(torch.bfloat16)


def sparse(count: int, seed: int, density: float | None = None) -> StoredSparse:
    """Return a delta of one of several densities, whose bits begin with a byte or within one."""
    density, skip = density or [0.3, 0.02, 0.3, 0.001][seed % 4], [8, 3, 0][seed % 3]
    kept = np.random.default_rng(seed).random(count) < density
    bits = np.packbits(np.concatenate([np.ones(skip, bool), kept]), bitorder="little")
    return StoredSparse(bf16(int(kept.sum()), seed, 0.25), bits, skip, count)


def delta_of(kind: str, number: int, count: int, base: Tensor) -> LazyDelta:
    kind = KINDS[number % 5] if kind == "mixed" else kind
    if kind == "sparse":
        return LazyDelta(sparse(count, number))
    delta = LazyDelta((base.float() + bf16(count, number, 0.25).float()).to(torch.bfloat16), base)
    if kind == "trimmed":
        return LazyDelta(delta.stored, base, threshold=1.0, ties=count // 2 * (number % 3))
    if kind == "between":
        ties = count // 2 * (number % 3)
        return LazyDelta(delta.stored, base, threshold=0.5, highest=1.5, top_ties=ties)
    if kind == "drawn":
        mask = Draws(7, f"{number}", "w").mask(5, 5 + count, 0.3)
        return LazyDelta(delta.stored, base, kept=mask, divisor=0.3 if number % 2 else 1.0)
    return delta


Merge = Callable[[LazyDeltas], Combination]

MERGES: dict[str, Merge] = {
    "sum": lambda d: Combination.sum(d, [1.0] * len(d)),
    "mean": lambda d: Combination.sum(d, [1.0] * len(d)).over(3.0).times(0.7),
    "weighted": lambda d: Combination.sum(d, [0.3 - 0.2 * i for i in range(len(d))]),
    "elected": lambda d: Combination.elected(d, [1.0] * len(d)),
    "elected, weighted": lambda d: Combination.elected(d, [0.3 + i for i in range(len(d))]),
    "sum of the winners": lambda d: Combination(d, Formula([2.0] * len(d), votes=[1.0] * len(d))),
    "over large divisors": lambda d: Combination(
        d, Formula([1.0] * len(d), votes=[1.0] * len(d), divisors=[2.0**127] * len(d))
    ),
    "chain": lambda d: Combination.chain(d, [0.5] * len(d)),
}


def merged(
    base: Tensor, deltas: list[LazyDelta], merge: Merge
) -> tuple[Tensor, tuple[bool, bool], object]:
    """Return the result's bits, any NaN's as one, what is told of it, and the sums of squares."""
    lazy = LazyDeltas(deltas, (len(base),), "F32")
    read = LazyDeltas([LazyDelta(each.stored, each.base) for each in deltas], lazy.shape, "F32")
    out = room_for(len(base), torch.bfloat16)
    found = add_and_round(LazyDelta(base), merge(lazy), read, out)
    bits = torch.where(out.tensor.isnan(), 0x7FC0, out.tensor.view(torch.int16))
    return bits, (found.finite, found.changed), found.squares


def check(base: Tensor, deltas: list[LazyDelta], merge: Merge) -> None:
    ours, told, squares = merged(base, deltas, merge)
    with without_loops_by_hand():
        plain, plainly_told, plain_squares = merged(base, deltas, merge)
    with without_kernels():
        torchs, torch_told, torch_squares = merged(base, deltas, merge)
    assert torch.equal(ours, plain)
    assert torch.equal(ours, torchs)
    assert told == plainly_told
    assert torch_told == (told if told[0] else (False, torch_told[1]))  # NaN differs from itself
    np.testing.assert_array_equal(squares, plain_squares)  # type: ignore[call-overload]
    np.testing.assert_allclose(squares, torch_squares, rtol=1e-4)  # type: ignore[call-overload]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("experts", [1, 2, 3, 5, 8, 9])
def test_every_kind_of_delta_is_merged_as_by_torch(kind: str, experts: int, merge: str) -> None:
    base = bf16(NUMEL, 99)
    deltas = [delta_of(kind, number, NUMEL, base) for number in range(experts)]
    check(base, deltas, MERGES[merge])


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 2 * RUN),
    experts=st.integers(1, 4),
    bad=st.sampled_from([*BAD, 3e38]),
    where=st.integers(0, 1 << 20),
    whose=st.integers(0, 4),
    merge=st.sampled_from(["sum", "elected", "elected, weighted"]),
)
def test_what_is_not_finite_spoils_what_it_does_by_torch(
    kind: str, count: int, experts: int, bad: float, where: int, whose: int, merge: str
) -> None:
    base = bf16(count, 99)
    deltas = [delta_of(kind, number, count, base) for number in range(experts)]
    stored = base if whose >= experts else deltas[whose].stored
    values = stored.values if isinstance(stored, StoredSparse) else stored
    assert isinstance(values, Tensor)
    if len(values):
        values[where % len(values)] = bad
    check(base, deltas, MERGES[merge])


@pytest.mark.parametrize("bits", [0x7FC0, 0x7FFF, -1, 0x7F80, -0x80, 0x7F7F])
@pytest.mark.parametrize("merge", ["sum", "elected"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_entry_of_the_base_that_is_not_finite_or_becomes_so_is_told(
    kind: str, merge: str, bits: int
) -> None:
    base = bf16(NUMEL, 99)
    deltas = [delta_of(kind, number, NUMEL, base) for number in range(3)]
    base.view(torch.int16)[RUN + 77] = bits
    check(base, deltas, MERGES[merge])


@pytest.mark.parametrize("ties", [0, 1, RUN - 1, RUN, RUN + 1, NUMEL])
def test_level_entries_are_cut_where_the_trim_says(ties: int) -> None:
    base = bf16(NUMEL, 99)
    deltas = [
        LazyDelta(delta_of("plain", number, NUMEL, base).stored, base, threshold=1.0, ties=ties)
        for number in range(3)
    ]
    check(base, deltas, MERGES["elected"])
    above = [replace(delta, highest=1.75, top_ties=ties) for delta in deltas]
    check(base, above, MERGES["elected"])


def test_too_few_values_of_a_sparse_delta_are_an_error() -> None:
    base, whole = bf16(NUMEL, 99), sparse(NUMEL, 1)
    assert isinstance(whole.values, Tensor)
    few = StoredSparse(whole.values[:-40], whole.bits, whole.skip, NUMEL)
    with pytest.raises(ValueError, match="not equally many"):
        merged(base, [LazyDelta(few)], MERGES["sum"])


def seldom() -> list[LazyDelta]:
    """Return deltas of few entries, but with enough of them left behind the runs looked at."""
    return [LazyDelta(sparse(LONG, number, 0.002)) for number in range(3)]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("bits", [0, 0x7FC1, -0x80, 0x7F80])
def test_entries_that_no_sparse_delta_has_are_the_bases(bits: int, merge: str) -> None:
    base, deltas = bf16(LONG, 99), seldom()
    kept = torch.stack([in_memory(delta.stored) != 0 for delta in deltas]).any(0)
    empty = (~kept).view(-1, 64).all(1).nonzero()
    base.view(torch.int16)[int(empty[10]) * 64 + 7] = bits
    check(base, deltas, MERGES[merge])


@pytest.mark.parametrize(("weight", "factor"), [(float("inf"), 1.0), (1.0, float("inf"))])
def test_a_run_that_no_sparse_delta_has_is_spoilt_by_infinity_all_the_same(
    weight: float, factor: float
) -> None:
    bits = np.packbits(np.arange(NUMEL) >= RUN, bitorder="little")
    values = [bf16(NUMEL - RUN, number) for number in range(2)]
    deltas = [LazyDelta(StoredSparse(each, bits, 0, NUMEL)) for each in values]
    check(bf16(NUMEL, 99), deltas, lambda d: Combination.sum(d, [weight, 1.0]).times(factor))


@settings(max_examples=100)
@given(
    count=st.sampled_from([32, 64, 1000, RUN, 2 * RUN + 96]),
    low=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    width=st.sampled_from([0.0, 0.25, 1.0, 9.0]),
)
def test_a_bracket_holds_what_torch_finds_in_order(count: int, low: float, width: float) -> None:
    base = bf16(count, 99)
    delta = delta_of("plain", 1, count, base)
    first, last = (int(np.float32(edge).view(np.int32)) for edge in (low, low + width))
    bits = delta.tensor.abs().view(torch.int32).numpy()
    inside = np.flatnonzero((bits >= first) & (bits <= last))

    def check_bracket() -> None:
        room = np.empty((1, 2, count + 1), np.int32)
        found = kernels.bracket([LazyDelta(delta.stored, base)], [first], [last], room)
        assert found == [(int((bits > last).sum()), len(inside))]
        np.testing.assert_array_equal(room[0, 1, : len(inside)], inside)
        np.testing.assert_array_equal(room[0, 0, : len(inside)], bits[inside])

    check_bracket()
    with without_loops_by_hand():
        check_bracket()
