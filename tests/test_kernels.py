"""The compiled kernels give the bits that torch gives, or say that they do not take a tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deltakit import kernels, ops
from deltakit.combination import Combination
from deltakit.dtypes import safetensors_dtype
from deltakit.engine.rounding import add_and_round
from deltakit.formula import Formula
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.rng import Draws
from deltakit.stored import Stored, StoredSparse
from deltakit.strategies._facts import gram
from deltakit.strategies._whole import Together, Whole
from deltakit.tensors.codec import scatter
from deltakit.trim import find_cut, find_cuts
from tests.kernels import room_for, without_kernels, without_loops_by_hand

needs_kernels = pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")

ODD = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, float("inf"), -float("inf"), float("nan"), 1.0]
STORED = [torch.float32, torch.bfloat16, torch.float16]


def both(compute: Callable[[], Tensor]) -> None:
    """Compare what is computed with the kernels and without, bit for bit, any NaN as one."""
    with without_kernels():
        theirs = compute()
    kind = {4: torch.int32, 2: torch.int16, 1: torch.uint8}[theirs.dtype.itemsize]
    for kernels_of in (nullcontext, without_loops_by_hand):
        with kernels_of():
            ours = compute()
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        same = (ours.view(kind) == theirs.view(kind)) | (ours.isnan() & theirs.isnan())
        assert bool(same.all()), (ours[~same][:5], theirs[~same][:5])


def odd_rows(rows: int, count: int = 5000, seed: int = 0) -> Tensor:
    """Return normal numbers of all magnitudes with every odd value strewn in: (rows, count)."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, count, generator=generator)
    wide = normal * 2.0 ** torch.randint(-40, 40, (rows, count), generator=generator)
    odd = torch.tensor(ODD)[torch.randint(len(ODD), (rows, count), generator=generator)]
    pick = torch.randint(10, (rows, count), generator=generator)
    return torch.where(pick == 0, odd, torch.where(pick < 6, normal, wide))


@needs_kernels
@pytest.mark.parametrize("count", [1, 7, 1023, 1024, 5000])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_sums_signs_and_disjoint_means_are_torchs(rows: int, count: int) -> None:
    deltas = odd_rows(rows, count)
    weights = [0.3 + 0.7 * row for row in range(rows)]
    both(lambda: ops.weighted_sum(deltas, weights))
    lazy, ones = LazyDeltas.of(deltas), [1.0] * rows
    for formula in formulas(weights, ones):
        both(lambda formula=formula: Combination(lazy, formula).tensor)  # type: ignore[misc]
    both(lambda: Combination.sum(lazy, weights).over(0.7).times(0.3).times(1.7).tensor)


def formulas(weights: list[float], ones: list[float]) -> list[Formula]:
    """Return every kind of formula."""
    votes = [Formula(weights, votes=weights, divisors=each) for each in (None, weights, ones)]
    chain = Formula(weights, carries=[1.0 - weight for weight in weights])
    return [*votes, Formula(weights, votes=ones, by_count=True), chain]


def computed(delta: LazyDelta) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        out = torch.empty(delta.numel())
        delta.into(out)
        return out

    return compute


@needs_kernels
@pytest.mark.parametrize("divisor", [1.0, 0.1, 1 / 3])
def test_dropping_is_torchs(divisor: float) -> None:
    (delta,) = odd_rows(1)
    kept = torch.rand(len(delta), generator=torch.Generator().manual_seed(1)) < 0.3
    both(computed(LazyDelta(delta, kept=kept, divisor=divisor)))


@needs_kernels
@pytest.mark.parametrize("ties", [0, 1, 2000, 5000])
@pytest.mark.parametrize("threshold", [0.0, 1e-45, 0.5, 3e38, float("inf")])
def test_trimming_is_torchs(threshold: float, ties: int) -> None:
    (delta,) = odd_rows(1)
    delta[::7] = threshold
    both(computed(LazyDelta(delta, threshold=threshold, ties=ties)))
    both(computed(LazyDelta(delta, highest=threshold, top_ties=ties)))
    both(computed(LazyDelta(delta, threshold=1e-9, ties=4000, highest=threshold, top_ties=ties)))


def every_half(dtype: torch.dtype) -> Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)


def some_stored(dtype: torch.dtype, seed: int = 0) -> Tensor:
    return odd_rows(1, 1 << 16, seed)[0] if dtype == torch.float32 else every_half(dtype)


@needs_kernels
@pytest.mark.parametrize("base", [None, *STORED], ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_widening_and_differences_are_torchs(stored: torch.dtype, base: torch.dtype | None) -> None:
    minus = None if base is None else some_stored(base, seed=2).flip(0)
    both(computed(LazyDelta(some_stored(stored), minus)))


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_formulas_take_lazy_deltas_as_computed_ones(stored: torch.dtype) -> None:
    base, kept = some_stored(stored), torch.rand(1 << 16) < 0.5
    other = odd_rows(1, 1 << 16, seed=4)[0].to(stored)
    lazy = LazyDeltas(
        [LazyDelta(base, other, threshold=0.5, ties=9), LazyDelta(other, base, kept=kept)],
        (1 << 16,),
        "F32",
    )
    for formula in (Combination.sum, Combination.elected):
        both(lambda formula=formula: formula(lazy, (0.3, 0.7)).tensor)  # type: ignore[misc]
        computed = formula(lazy.tensor, (1, 2)).tensor
        assert torch.equal(formula(lazy, (1, 2)).tensor.nan_to_num(), computed.nan_to_num())


@needs_kernels
def test_squares_are_summed_to_float32_precision() -> None:
    deltas = LazyDeltas.of(torch.randn(2, 300_007, generator=torch.Generator().manual_seed(3)))
    assert deltas.squares() == pytest.approx(deltas.tensor.double().square().sum(1).tolist())


def beside(deltas: list[LazyDelta], base: LazyDelta | None) -> Whole:
    """Return the facts of a parameter that is one block."""
    together = Together(len(deltas), lambda *_: [deltas], lambda _: [deltas], lambda _: 0)
    bases = None if base is None else lambda: [base]
    return Whole(deltas[0].numel(), lambda _: [], together=together, base=bases)


@needs_kernels
@pytest.mark.parametrize("count", [1, 63, 64, 5000, (1 << 16) + 300, (1 << 17) + 300])
@pytest.mark.parametrize("of_models", [False, True])
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_inner_products_are_numpys(
    stored: torch.dtype, of_models: bool, count: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(count)
    rows = [torch.randn(count, generator=generator).to(stored) for _ in range(3)]
    base, first, second = (in_file(row, tmp_path / f"{i}") for i, row in enumerate(rows))
    kept = np.random.default_rng(0).random(count) < 0.1
    bits = np.packbits(kept, bitorder="little")
    sparse = StoredSparse(rows[1][: int(kept.sum())], bits, 0, count)
    deltas = [LazyDelta(first, base), LazyDelta(second, base), LazyDelta(sparse)]

    def found(chosen: slice) -> np.ndarray:
        return gram(
            beside(deltas[chosen], LazyDelta(base)), len(deltas[chosen]), of_models=of_models
        )

    for chosen in (slice(1), slice(3), slice(2, 3)):  # the last have no base of their own
        with without_kernels():
            theirs = found(chosen)
        for kernels_of in (nullcontext, without_loops_by_hand):
            with kernels_of():
                assert np.array_equal(found(chosen), theirs)
        wide = torch.stack([d.tensor for d in deltas[chosen]]).double()
        wide += rows[0].double() if of_models else 0.0
        assert theirs == pytest.approx((wide @ wide.T).numpy(), rel=1e-12, abs=1e-9)


@needs_kernels
@pytest.mark.parametrize("density", [1e-9, 0.1, 1 / 3, 0.5, 0.99999, 1.0])
@pytest.mark.parametrize("start", [0, 5, (1 << 40) + 64])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 255, 256, 257, 200_000])
def test_draws_are_the_same(density: float, start: int, count: int) -> None:
    draws = Draws(0, "a", "w")
    both(lambda: torch.from_numpy(draws.keep(start, start + count, density)).byte())
    both(lambda: torch.from_numpy(draws.bits(start, start + count, density)))


@needs_kernels
@pytest.mark.parametrize("density", [1e-9, 0.1, 0.125, 0.99999, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("start", [0, 3, 70_001])
def test_masks_drawn_on_the_way_are_those_drawn_beforehand(
    density: float, dtype: torch.dtype, start: int
) -> None:
    count = 70_000
    stored, base = odd_rows(2, count)
    draws = Draws(0, "a", "w")
    delta = LazyDelta(stored.to(dtype), base)
    lazy, beforehand = (
        Combination.sum(LazyDeltas([delta], (count,), "F32").dropped([kept], 0.3), [0.7])
        for kept in (
            draws.mask(start, start + count, density),
            torch.from_numpy(draws.keep(start, start + count, density)),
        )
    )
    both(lambda: lazy.tensor)
    assert torch.equal(lazy.tensor.nan_to_num(), beforehand.tensor.nan_to_num())


@needs_kernels
@pytest.mark.parametrize("base_dtype", STORED, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_the_one_rounding_is_torchs(stored: torch.dtype, base_dtype: torch.dtype) -> None:
    halves = every_half(torch.float16).float()
    steps = halves[:-1] + (halves[1:] - halves[:-1]) / 2  # half-way between neighbours
    near = torch.cat([steps, steps.nextafter(halves[1:]), halves, odd_rows(1, 9000)[0]])
    base = torch.where(torch.arange(len(near)) % 3 == 0, torch.tensor(-0.0), near).to(base_dtype)
    for merged in (near - base.float(), torch.zeros_like(near)):

        def rounded(merged: Tensor = merged) -> Tensor:
            out = room_for(len(near), stored)
            found = add_and_round(LazyDelta(base), merged, LazyDeltas.of(merged[None]), out)
            return torch.cat([out.tensor, torch.tensor([found.finite], dtype=stored)])

        both(rounded)


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_told(bad: float, stored: torch.dtype) -> None:
    base, merged = LazyDelta(torch.zeros(5000)), torch.zeros(5000)
    out, deltas = room_for(5000, stored), LazyDeltas.of(torch.zeros(1, 5000))
    assert add_and_round(base, merged, deltas, out).finite
    merged[4321] = bad
    assert not add_and_round(base, merged, deltas, out).finite


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("base_dtype", STORED, ids=str)
def test_one_changed_entry_is_told(stored: torch.dtype, base_dtype: torch.dtype) -> None:
    base, merged = LazyDelta(torch.ones(5000, dtype=base_dtype)), torch.zeros(5000)
    out, deltas = room_for(5000, stored), LazyDeltas.of(torch.zeros(1, 5000))
    assert not add_and_round(base, merged, deltas, out).changed
    merged[4999] = 1.0
    assert add_and_round(base, merged, deltas, out).changed


def in_file(tensor: Tensor, path: Path) -> Stored:
    """Return a tensor's entries as they lie in a new file, 6 bytes from its beginning."""
    path.write_bytes(b"before" + tensor.view(torch.uint8).numpy().tobytes())
    raw = np.empty(tensor.nbytes, dtype=np.uint8)
    fd = os.open(path, os.O_RDONLY)

    def read() -> Tensor:
        os.preadv(fd, [memoryview(raw)], 6)
        return torch.from_numpy(raw).view(tensor.dtype)

    return Stored(safetensors_dtype(tensor.dtype), tensor.numel(), raw, read, (fd, 6))


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_a_file_is_read_stretch_by_stretch(stored: torch.dtype, tmp_path: Path) -> None:
    numel = (1 << 17) * 2 + 77  # two stretches and a rest
    tensors = [row.to(stored) for row in odd_rows(3, numel)]
    base, *tuned = (in_file(t, tmp_path / f"{i}") for i, t in enumerate(tensors))
    kept = torch.rand(numel, generator=torch.Generator().manual_seed(1)) < 0.5
    lazy = LazyDeltas(
        [LazyDelta(tuned[0], base, 0.5, ties=140_000), LazyDelta(tuned[1], base, kept=kept)],
        (numel,),
        "F32",
    )
    out = room_for(numel, stored)

    def merged() -> Tensor:
        add_and_round(LazyDelta(base), Combination.elected(lazy, (1.0, 2.0)), lazy, out)
        return out.tensor.clone()

    both(merged)


@needs_kernels
def test_a_file_that_became_shorter_is_left_to_torch(tmp_path: Path) -> None:
    base = in_file(torch.ones(1000), tmp_path / "base")
    (tmp_path / "base").write_bytes(b"before")
    out, one = torch.empty(1000), Formula((1.0,))
    assert not kernels.combine(LazyDeltas([LazyDelta(base)], (1000,), "F32"), one, out)
    assert kernels.bracket([LazyDelta(base)], [0], [9], np.empty((1, 2, 1001), np.int32)) is None
    assert not kernels.gram([LazyDelta(base)], None, np.zeros((1, 64)))


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("skip", [0, 3])
def test_values_that_stand_by_bits_are_spread(
    skip: int, stored: torch.dtype, tmp_path: Path
) -> None:
    numel = (1 << 17) + 500
    kept = np.random.default_rng(0).random(numel) < 0.1
    bits = np.packbits(np.concatenate([np.ones(skip, bool), kept]), bitorder="little")
    values = odd_rows(1, int(kept.sum()))[0].to(stored)
    sparse = StoredSparse(values, bits, skip, numel)
    both(computed(LazyDelta(sparse)))
    both(computed(LazyDelta(StoredSparse(in_file(values, tmp_path / "x"), bits, skip, numel))))
    both(computed(LazyDelta(sparse, torch.full((numel,), 0.5))))
    few = StoredSparse(values[:-1], bits, skip, numel)
    with pytest.raises(ValueError, match="not equally many"):
        computed(LazyDelta(few))()
    with without_kernels(), pytest.raises(ValueError, match="stand for"):
        computed(LazyDelta(few))()


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("skip", [0, 1, 7])
@pytest.mark.parametrize("count", [1, 8, 63, 64, 65, 3000])
def test_scattering_is_numpys(count: int, skip: int, stored: torch.dtype) -> None:
    generator = np.random.default_rng(count)
    kept = generator.random(count) < 0.3
    bits = np.packbits(np.concatenate([generator.random(skip) < 0.5, kept]), bitorder="little")
    values = odd_rows(1, max(1, int(kept.sum())))[0][: int(kept.sum())].to(stored)
    (base,) = odd_rows(1, count, seed=3)
    for minus in (None, base):

        def scattered(minus: Tensor | None = minus) -> Tensor:
            out = torch.full((count,), 5.0)
            if kernels.scatter(values, bits, skip, minus, out):
                return out
            wide = values.float()
            scatter(wide if minus is None else wide - minus[torch.from_numpy(kept)], kept, out)
            return out

        both(scattered)


@needs_kernels
@pytest.mark.parametrize("values", ["normal", "level"])
@pytest.mark.parametrize("density", [1e-6, 0.1, 0.2, 0.999, 1.0])
def test_a_cut_by_a_sample_is_the_cut_without(density: float, values: str) -> None:
    numel = 300_001
    flat = torch.randn(numel, generator=torch.Generator().manual_seed(5))
    flat = flat.mul(4).round() if values == "level" else flat
    count = max(1, round(density * numel))
    other = flat.flip(0) / 3

    def blocks() -> Iterator[tuple[Tensor, ...]]:
        return zip(flat.split(100_000), other.split(100_000), strict=True)

    def sample() -> Iterator[tuple[Tensor, ...]]:
        places = range(0, numel, 20_000)
        return ((flat[at : at + 500], other[at : at + 500]) for at in places)

    cuts = find_cuts(blocks, sample, [count, count], numel)
    with without_kernels():
        assert find_cuts(blocks, sample, [count, count], numel) == cuts
        assert [find_cut(lambda: each.split(9999), count) for each in (flat, other)] == cuts  # noqa: B023


@needs_kernels
def test_more_entries_than_32_bits_count_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_MOST_PLACES", 1000)
    room = np.empty((1, 2, 2000), dtype=np.int32)
    for count in (999, 1000):
        found = kernels.bracket([LazyDelta(torch.ones(count))], [0], [1], room)
        assert (found is None) == (count == 1000)


@needs_kernels
def test_tensors_of_other_kinds_are_left_to_torch() -> None:
    deltas = torch.randn(2, 8)
    out = torch.empty(8)

    def takes(deltas: Tensor, out: Tensor = out) -> bool:
        return kernels.combine(LazyDeltas.of(deltas), Formula((1.0, 1.0)), out) is not None

    assert takes(deltas)
    assert not takes(deltas.double())
    assert not takes(torch.randn(8, 2).T)
    assert not takes(deltas.clone().requires_grad_())
    assert not takes(deltas, torch.empty(7))
    assert not takes(torch.empty(0, 8))
    assert not takes(torch.empty(300, 8))
    assert not takes(deltas.to("meta"), out.to("meta"))
    assert not takes(deltas.to(torch.float8_e4m3fn))
    short = LazyDelta(deltas[0], kept=torch.ones(7, dtype=torch.bool))
    assert not kernels.combine(LazyDeltas([short], (8,), "F32"), Formula((1.0,)), out)
    with pytest.raises(ValueError, match="a weight goes with each row"):
        kernels.combine(LazyDeltas.of(deltas), Formula((1.0,)), out)


@needs_kernels
def test_bits_that_are_more_or_fewer_than_the_values_are_an_error() -> None:
    out = torch.zeros(16)
    for values in (2, 4):
        with pytest.raises(ValueError, match="3 bits stand for"):
            kernels.scatter(torch.ones(values), np.array([0b111, 0], np.uint8), 0, None, out)


@needs_kernels
@pytest.mark.parametrize("dtype", STORED)
def test_magnitudes_of_stretches_are_torchs(dtype: torch.dtype) -> None:
    base, *stored = odd_rows(4, 200_000).to(dtype)
    starts, length = [0, 70_001, 100_000], 100_000  # more than is read at a time
    expected = [
        torch.cat([(each.float() - base.float())[at : at + length] for at in starts]).abs()
        for each in stored
    ]
    for loops in (nullcontext, without_loops_by_hand):
        found = np.empty((3, 3 * length), dtype=np.int32)
        with loops():
            assert kernels.magnitudes([LazyDelta(x, base) for x in stored], starts, length, found)
        for ours, theirs in zip(found, expected, strict=True):
            same = torch.from_numpy(ours) == theirs.view(torch.int32)
            assert bool((same | theirs.isnan()).all())


@needs_kernels
def test_a_kernel_reads_no_more_than_its_memory_holds(tmp_path: Path) -> None:
    path, values = tmp_path / "values", torch.randn(100)
    path.write_bytes(values.numpy().tobytes())
    out = torch.empty(100)
    with path.open("rb") as file:
        for room, done in ((400, True), (399, False)):
            raw = np.empty(room, dtype=np.uint8)
            stored = Stored("F32", 100, raw, lambda: values, (file.fileno(), 0))
            lazy = LazyDeltas([LazyDelta(stored)], (100,), "F32")
            assert (kernels.combine(lazy, Formula((1.0,)), out) is not None) is done
    assert torch.equal(out, values)


@needs_kernels
def test_more_rows_than_the_kernels_take_and_sparse_ones_are_left_to_others() -> None:
    rows, found = [LazyDelta(torch.ones(8))] * 257, np.empty((257, 8), dtype=np.int32)
    assert kernels.magnitudes(rows[:256], [0], 8, found)
    assert not kernels.magnitudes(rows, [0], 8, found)
    sparse = StoredSparse(torch.ones(1), np.ones(1, dtype=np.uint8), 0, 8)
    assert not kernels.magnitudes([LazyDelta(sparse)], [0], 8, found)
