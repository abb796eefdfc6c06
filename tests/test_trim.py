"""A trim keeps exactly the k largest magnitudes, lowest flat index first among equals."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltakit import bracket, trim
from deltakit.trim import find_cut, find_cuts

KINDS = [torch.float32, torch.float64]


@pytest.fixture(
    params=[0, 2, bracket.MOST_HELD],
    ids=["counted", "gathered", "held"],
    autouse=True,
    scope="module",
)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The ways to find a cut: counting all digits, gathering after the first, holding all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trim, "MOST_HELD", request.param)
        patch.setattr(bracket, "MOST_HELD", request.param)
        yield


def trimmed(values: torch.Tensor, count: int, block: int) -> np.ndarray:
    """The mask found block by block and applied block by block."""
    parts = list(values.split(block))
    cut = find_cut(lambda: iter(parts), count)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    kept = [cut.keeps(part, int(at)) for part, at in zip(parts, starts[:-1], strict=True)]
    return torch.cat(kept).numpy()


def sorted_reference(values: torch.Tensor, count: int) -> np.ndarray:
    order = np.argsort(-np.abs(values.numpy().astype(np.float64)), kind="stable")
    kept = np.zeros(len(values), dtype=bool)
    kept[order[:count]] = True
    return kept


# Few distinct magnitudes make many ties; the rest are of every size.
NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, float("inf"), -float("inf"), 1e-45, -1e-45]),
    st.floats(width=32, allow_nan=False),
)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150)
def test_a_trim_is_a_stable_sort_whatever_the_blocks(kind: torch.dtype, data: st.DataObject):
    values = torch.tensor(data.draw(st.lists(NUMBERS, min_size=1, max_size=40)), dtype=kind)
    count = data.draw(st.integers(1, len(values)))
    block = data.draw(st.integers(1, len(values)))
    found = trimmed(values, count, block)
    assert found.sum() == count
    assert np.array_equal(found, sorted_reference(values, count))


def test_float64_magnitudes_that_float32_cannot_tell_apart_are_told_apart():
    values = torch.tensor([1.0, 1.0 + 2**-50, -1.0 - 2**-51, 1.0 - 2**-52], dtype=torch.float64)
    assert trimmed(values, 1, 2).tolist() == [False, True, False, False]
    assert trimmed(values, 2, 3).tolist() == [False, True, True, False]


def test_the_lowest_index_stays_among_equals():
    values = torch.tensor([1.0, 3.0, -2.0, 2.0, 2.0, -2.0])
    assert trimmed(values, 3, 2).tolist() == [False, True, True, True, False, False]


@pytest.mark.parametrize("block", [1, 1000, 4096, 5000])
def test_bfloat16_values_tie_and_exactly_k_are_kept(block: int):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5000, generator=generator).bfloat16().float()
    for count in (1, 500, 2500, 4999, 5000):
        found = trimmed(values, count, block if block > 1 else 7)
        assert found.sum() == count
        assert np.array_equal(found, sorted_reference(values, count))


@pytest.mark.parametrize("kind", KINDS)
def test_all_zeros_keep_the_first(kind: torch.dtype):
    assert trimmed(torch.zeros(5, dtype=kind), 2, 2).tolist() == [True, True, False, False, False]


def test_infinities_are_the_largest():
    values = torch.tensor([1.0, -float("inf"), 3e38, float("inf")])
    assert trimmed(values, 2, 3).tolist() == [False, True, False, True]


def test_keeping_all_keeps_all_even_zeros():
    assert trimmed(torch.tensor([0.0, -0.0, 1.0]), 3, 2).all()


def test_empty_blocks_do_no_harm():
    values = torch.tensor([1.0, 2.0, 2.0])
    blocks = [values[:0], values[:2], values[2:2], values[2:]]
    assert find_cut(lambda: blocks, 1).last == 1


def test_the_values_are_not_modified():
    values = torch.tensor([-1.0, 2.0, -3.0])
    trimmed(values, 1, 2)
    assert values.tolist() == [-1.0, 2.0, -3.0]


@pytest.mark.parametrize("shape", ["normal", "half zero", "few values", "stripes", "sorted"])
@pytest.mark.parametrize("density", [1e-5, 0.01, 0.2, 0.5, 0.9, 1.0])
def test_a_trim_of_many_entries_is_a_stable_sort_whatever_a_sample_says(shape, density):
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(300_000, generator=generator)
    if shape == "half zero":
        values[torch.rand(300_000, generator=generator) < 0.5] = 0.0
    elif shape == "few values":
        values = values.round()
    elif shape == "stripes":  # every entry that a stride of 73 samples is tiny
        values[::73] *= 1e-9
    elif shape == "sorted":
        values = values.sort().values
    count = max(1, round(density * len(values)))
    assert np.array_equal(trimmed(values, count, 100_000), sorted_reference(values, count))


@pytest.mark.parametrize("share", [0.001, 0.2, 0.999])
@pytest.mark.parametrize("step", [0.0, 0.25])  # levels of the values; 0 for none
def test_a_cut_that_a_sample_suggests_is_the_cut(step: float, share: float):
    numel = 300_000
    values = torch.randn(numel, generator=torch.Generator().manual_seed(1))
    values = (values / step).round() * step if step else values
    parts, others = list(values.split(90_000)), list(values.sort().values.split(90_000))
    count = round(share * numel)

    def sample() -> Iterator[tuple[torch.Tensor, ...]]:
        return ((part, part) for part in values[: 1 << 14].split(1000))

    cut, other = find_cuts(lambda: zip(parts, others, strict=True), sample, [count, count], numel)
    assert cut == find_cut(lambda: iter(parts), count)
    assert other == find_cut(lambda: iter(others), count)
    kept = torch.cat([cut.keeps(part, 90_000 * i) for i, part in enumerate(parts)])
    assert int(kept.sum()) == count
