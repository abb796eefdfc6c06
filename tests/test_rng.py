"""Draws are a function of (seed, task, tensor, flat index) and of nothing else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltakit import kernels
from deltakit.errors import BadValue
from deltakit.rng import Draws, _splitmix

MANY = 200_000


def kept(density: float, seed: int = 0, task: str = "t", tensor: str = "w") -> np.ndarray:
    return Draws(seed, task, tensor).keep(0, MANY, density)


@given(st.integers(0, 3000), st.integers(0, 300), st.floats(1e-6, 1.0))
@settings(max_examples=100)
def test_a_range_is_that_slice_of_the_whole(start: int, length: int, density: float):
    draws = Draws(7, "trec", "encoder.weight")
    whole = draws.keep(0, 3300, density)
    assert np.array_equal(draws.keep(start, start + length, density), whole[start : start + length])


def test_ranges_far_out_agree_too():
    draws, far = Draws(0, "t", "w"), (1 << 40) + 3
    whole = draws.keep(far, far + 1000, 0.3)
    assert np.array_equal(draws.keep(far + 100, far + 200, 0.3), whole[100:200])


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0))
@settings(max_examples=100)
def test_a_smaller_density_keeps_a_subset(one: float, other: float):
    draws = Draws(1, "t", "w")
    small, large = (draws.keep(0, 5000, q) for q in sorted((one, other)))
    assert not (small & ~large).any()


def test_densities_that_differ_in_the_last_bit_nest():
    draws = Draws(1, "t", "w")
    for q in (0.1, 0.5, 0.9, 3 / 256):
        less, more = np.nextafter(q, 0), np.nextafter(q, 1)
        a, b, c = (draws.keep(0, 20_000, x) for x in (less, q, more))
        assert not (a & ~b).any()
        assert not (b & ~c).any()


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 1 / 3, 255.5 / 256])
def test_the_fraction_kept_is_the_density(density: float):
    bound = 5 * math.sqrt(density * (1 - density) / MANY)
    assert abs(kept(density).mean() - density) < bound


def test_density_one_keeps_all():
    assert kept(1.0).all()
    assert Draws(0, "t", "w").keep(5, 5, 0.5).shape == (0,)


class Few(Draws):
    """Draws whose bytes are all zero, so that the fraction alone decides."""

    def bytes(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, dtype=np.uint8)


@pytest.mark.parametrize("part", [0.001, 0.25, 0.75, 0.999])
def test_densities_below_a_byte_are_exact(part: float, monkeypatch: pytest.MonkeyPatch):
    """Where the byte does not decide, the share kept is what remains of the density."""
    monkeypatch.setattr(kernels, "compiled", None)
    number = 20_000
    found = Few(0, "t", "w").keep(0, number, part / 256).mean()
    assert abs(found - part) < 5 * math.sqrt(part * (1 - part) / number)


def test_a_tiny_density_keeps_almost_nothing_and_is_allowed():
    assert kept(1e-12).sum() == 0
    assert kept(5e-324).sum() == 0


def test_streams_are_independent_of_one_another():
    """Two independent masks of density q agree with q^2 of the entries."""
    q, base = 0.5, kept(0.5)
    others = [
        kept(q, seed=1), kept(q, task="u"), kept(q, tensor="v"), kept(q, seed=-1),
        kept(q, task="t\", \"w"), kept(q, tensor="w "), kept(q, task="", tensor="tw"),
    ]  # fmt: skip
    for other in others:
        assert abs((base & other).mean() - q * q) < 5 * math.sqrt(q * q * (1 - q * q) / MANY)


def test_neighbours_are_independent():
    mask = kept(0.5)
    assert abs((mask[1:] & mask[:-1]).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / MANY)


def test_names_do_not_run_together():
    assert not np.array_equal(kept(0.5, task="ab", tensor="c"), kept(0.5, task="a", tensor="bc"))


@pytest.mark.parametrize("density", [0.0, -0.1, 1.0000001, math.nan, math.inf, -math.inf])
def test_a_density_outside_is_refused(density: float):
    with pytest.raises(BadValue, match="density"):
        kept(density)


def test_the_stream_is_splitmix64():
    """The first numbers of the published generator from state 1234567."""
    assert _splitmix(1234567, np.arange(5, dtype=np.uint64)).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
        4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


def test_the_masks_never_change(monkeypatch: pytest.MonkeyPatch):
    """Golden: a stored seed must mean the same mask in every later version."""
    draws = Draws(42, "trec", "encoder.layer.0.weight")
    assert draws.bytes(0, 6).tolist() == [101, 203, 173, 124, 114, 167]
    assert np.packbits(draws.keep(0, 64, 0.3)).tobytes().hex() == "01e6461488c00126"
    assert draws.keep(1 << 33, (1 << 33) + 40, 0.1).nonzero()[0].tolist() == [3, 6, 13, 24, 37]
    monkeypatch.setattr(kernels, "compiled", None)
    few = Few(42, "trec", "encoder.layer.0.weight")
    assert few.keep(0, 40, 0.2 / 256).nonzero()[0].tolist() == [12, 30, 37]
