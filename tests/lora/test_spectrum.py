"""What factors hold of a dense delta: next to the best there is, told exactly."""

import pytest
import torch

from deltakit.lora.cut import Size, cut, decompose
from deltakit.lora.spectrum import leading_spectrum, squared_norm, whole_spectrum

LACKING = 2e-3  # of the best energy, at most: what docs/lora.md says

# Singular values of a matrix of n rows.
KINDS = {
    "falling over all": lambda n: 10.0 ** (-3 * torch.arange(n) / n),
    "ill-conditioned": lambda n: 10.0 ** (-6 * torch.arange(n) / n),
    "falling to rounding": lambda n: 10.0 ** -torch.arange(float(n)),
    "rank 5": lambda n: (torch.arange(n) < 5).float(),
    "all alike": torch.ones,
    "spread as noise": lambda n: torch.linspace(1.0, 0.3, n),
    "large": lambda n: 1e25 * 10.0 ** (-3 * torch.arange(n) / n),
    "small": lambda n: 1e-25 * 10.0 ** (-3 * torch.arange(n) / n),
    "zero": torch.zeros,
}


def matrix(kind, rows, columns):
    draws = torch.Generator().manual_seed(3)
    least = min(rows, columns)
    u, v = (
        torch.linalg.qr(torch.randn(n, least, generator=draws, dtype=torch.float64)).Q
        for n in (rows, columns)
    )
    sigma = KINDS[kind](least).double()
    return ((u * sigma) @ v.T).float(), sigma


def energies(found, delta):
    """Squared norms: of the delta, of the product found, of what it leaves."""
    product = (found.u.double() * found.sigma.double()) @ found.v.double()
    wide = delta.double()
    return [float(part.square().sum()) for part in (wide, product, wide - product)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
@pytest.mark.parametrize("most", [4, None])
def test_the_whole_spectrum_is_that_of_an_svd(kind, shape, most):
    delta, _ = matrix(kind, *shape)
    found = whole_spectrum(delta, most)
    wanted = torch.linalg.svdvals(delta.double())[:most]
    torch.testing.assert_close(
        found.sigma.double(), wanted, rtol=1e-6, atol=3e-7 * float(wanted[0])
    )
    total, _, left = energies(found, delta)
    best = float(torch.linalg.svdvals(delta.double())[len(wanted) :].square().sum())
    assert left <= best * (1 + 1e-5) + 1e-12 * total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(300, 700), (700, 300)])
@pytest.mark.parametrize("rank", [3, 20])
def test_the_leading_spectrum_holds_next_to_all_that_a_rank_can(kind, shape, rank):
    delta, sigma = matrix(kind, *shape)
    found = leading_spectrum(delta, rank)
    best = float(sigma[:rank].square().sum())
    if found is None:  # decompose goes on to the whole one
        found = whole_spectrum(delta, rank)
    held = float(found.sigma.double().square().sum())
    assert (1 - LACKING) * best <= held <= (1 + 1e-5) * best
    total, product, left = energies(found, delta)
    assert product == pytest.approx(held, rel=1e-5)
    assert left == pytest.approx(total - held, rel=1e-5, abs=2e-6 * total)
    live = found.sigma > 1e-5 * found.sigma[0]
    rows = found.v[live]
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-4)


def test_equal_deltas_give_equal_bits_and_seeds_other_ones():
    delta, _ = matrix("spread as noise", 300, 400)
    one, two, other = (leading_spectrum(delta, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(one.u, two.u)
    assert torch.equal(one.v, two.v)
    assert not torch.equal(one.v, other.v)


def test_a_spectrum_that_takes_most_of_the_matrix_is_not_looked_for():
    delta, _ = matrix("spread as noise", 60, 90)
    assert leading_spectrum(delta, 30) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_tells_the_energy_that_its_factors_keep(kind):
    delta, sigma = matrix(kind, 530, 600)
    found = cut(delta, 16)
    product = found.factors.b.double() @ found.factors.a.double()
    total = squared_norm(delta)
    kept = 1 - squared_norm(delta.double() - product) / total if total else 1.0
    assert found.kept == pytest.approx(kept, abs=3e-6)
    best = float(sigma[:16].square().sum() / sigma.square().sum()) if total else 1.0
    assert found.kept >= (1 - LACKING) * best


def test_float64_deltas_are_decomposed_in_float64():
    delta, _ = matrix("ill-conditioned", 40, 50)
    found, total = decompose(delta.double(), Size(rank=40))
    assert found.sigma.dtype == torch.float64
    product = (found.u * found.sigma) @ found.v
    torch.testing.assert_close(product, delta.double(), rtol=0, atol=1e-14 * total**0.5)
