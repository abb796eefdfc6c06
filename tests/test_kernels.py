"""The compiled kernels give the bits that torch gives, or say that they do not take a tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from deltakit import kernels, ops
from deltakit.engine.rounding import add_and_round
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.rng import Draws
from deltakit.tensors.codec import scatter
from deltakit.trim import find_cut
from tests.kernels import without_kernels

needs_kernels = pytest.mark.skipif(kernels.compiled is None, reason="no kernels were built")

ODD = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, float("inf"), -float("inf"), float("nan"), 1.0]
STORED = [torch.float32, torch.bfloat16, torch.float16]


def both(compute: Callable[[], Tensor]) -> None:
    """Compare what is computed with the kernels and without, bit for bit, any NaN as one."""
    ours = compute()
    with without_kernels():
        theirs = compute()
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    kind = {4: torch.int32, 2: torch.int16}[ours.dtype.itemsize]
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
    both(lambda: ops.elect_sign(deltas, weights))
    elected = ops.elect_sign(deltas, weights)
    both(lambda: ops.disjoint_sum(deltas, weights, elected))
    both(lambda: ops.disjoint_mean(deltas, weights, elected))
    both(lambda: ops.disjoint_mean(deltas, weights, elected, [1.0] * rows))


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
        torch.float32,
    )
    for formula in (ops.weighted_sum, ops.elect_sign):
        both(lambda formula=formula: formula(lazy, (0.3, 0.7)))  # type: ignore[misc]
        assert torch.equal(
            formula(lazy, (1, 2)).nan_to_num(), formula(lazy.tensor, (1, 2)).nan_to_num()
        )
    elected = ops.elect_sign(lazy, (1.0, 1.0))
    both(lambda: ops.disjoint_mean(lazy, (1.0, 2.0), elected))


@needs_kernels
def test_squares_are_summed_to_float32_precision() -> None:
    deltas = LazyDeltas.of(torch.randn(2, 300_007, generator=torch.Generator().manual_seed(3)))
    assert deltas.squares() == pytest.approx(deltas.tensor.double().square().sum(1).tolist())


@needs_kernels
@pytest.mark.parametrize("density", [1e-9, 0.1, 1 / 3, 0.5, 0.99999])
def test_draws_are_the_same(density: float) -> None:
    both(lambda: torch.from_numpy(Draws(0, "a", "w").keep(5, 200_000, density)).half())


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
            out = torch.empty(len(near), dtype=stored)
            add_and_round(LazyDelta(base), merged, out)
            return out

        both(rounded)


@needs_kernels
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_told(bad: float, stored: torch.dtype) -> None:
    base, merged = LazyDelta(torch.zeros(5000)), torch.zeros(5000)
    out = torch.empty(5000, dtype=stored)
    assert add_and_round(base, merged, out)
    merged[4321] = bad
    assert not add_and_round(base, merged, out)


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
    blocks = list(flat.split(100_000))

    def sample() -> list[Tensor]:
        return [flat[at : at + 500] for at in range(0, numel, 20_000)]

    cut = find_cut(lambda: blocks, count, numel, sample)
    with without_kernels():
        assert find_cut(lambda: blocks, count, numel, sample) == cut
        assert find_cut(lambda: blocks, count) == cut


@needs_kernels
def test_tensors_of_other_kinds_are_left_to_torch() -> None:
    deltas = torch.randn(2, 8)
    out = torch.empty(8)
    ones = (1.0, 1.0)

    def takes(deltas: Tensor, out: Tensor = out) -> bool:
        return kernels.weighted_sum(LazyDeltas.of(deltas), ones, out)

    assert takes(deltas)
    assert not takes(deltas.double())
    assert not takes(torch.randn(8, 2).T)
    assert not takes(deltas.clone().requires_grad_())
    assert not takes(deltas, torch.empty(7))
    assert not takes(torch.empty(0, 8))
    assert not takes(torch.empty(300, 8))
    assert not takes(deltas.to("meta"), out.to("meta"))
    assert not takes(deltas.to(torch.float8_e4m3fn))
    assert not kernels.load(LazyDelta(deltas[0], kept=torch.ones(7, dtype=torch.bool)), out)
    with pytest.raises(ValueError, match="a weight goes with each row"):
        kernels.weighted_sum(LazyDeltas.of(deltas), (1.0,), out)


@needs_kernels
def test_bits_that_are_more_or_fewer_than_the_values_are_an_error() -> None:
    out = torch.zeros(16)
    for values in (2, 4):
        with pytest.raises(ValueError, match="3 bits stand for"):
            kernels.scatter(torch.ones(values), np.array([0b111, 0], np.uint8), 0, None, out)
