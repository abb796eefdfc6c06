"""The factorisation of large matrices holds what it states, whatever the spectrum."""

import pytest
import torch

from deltakit.strategies import _matrix
from deltakit.strategies._matrix import GRAM_FROM, polar, rank, svd

N = GRAM_FROM + 8
SPECTRA = {
    "flat": torch.ones(N) + 0.1 * torch.rand(N, generator=torch.Generator().manual_seed(3)),
    "one above all": torch.cat([torch.tensor([1e4]), torch.linspace(1.0, 0.5, N - 1)]),
    "two decades": torch.logspace(0, -2, N),
    "seven decades": torch.logspace(0, -7, N),
    "few": torch.cat([torch.linspace(3.0, 1.0, 9), torch.zeros(N - 9)]),
}


def orthonormal(rows: int, seed: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, N, dtype=torch.float64, generator=draws))[0]


def matrix(spectrum: torch.Tensor, rows: int = N) -> torch.Tensor:
    return ((orthonormal(rows, 1) * spectrum) @ orthonormal(N, 2).T).float()  # (rows, N)


@pytest.mark.parametrize("name", SPECTRA)
def test_values_and_product_are_exact_to_rounding_and_vectors_orthonormal(name: str) -> None:
    found = matrix(SPECTRA[name])
    u, s, vh = (x.double() for x in svd(found))
    assert (s[:-1] >= s[1:]).all()
    largest = float(s[0])
    exact = torch.linalg.svdvals(found.double())
    assert (s - exact).abs().max() < 4e-6 * largest
    assert torch.linalg.matrix_norm((u * s) @ vh - found.double(), 2) < 8e-6 * largest
    live = int((s > 0).sum())
    strong = int((s > 1e-4 * largest).sum())
    assert live == N or exact[live] < 4e-6 * largest
    for vectors in (u.T, vh):
        assert not vectors[live:].any()
        kept = vectors[:strong]
        assert (kept @ kept.T - torch.eye(strong)).abs().max() < 1e-5


@pytest.mark.parametrize("rows", [N - 4, 2 * N])
def test_a_wide_matrix_is_a_tall_one_on_its_side(rows: int) -> None:
    found = matrix(SPECTRA["two decades"], max(rows, N))[:rows]
    u, s, vh = svd(found)
    least = min(rows, N)
    assert (u.shape, s.shape, vh.shape) == ((rows, least), (least,), (least, N))
    for one, other in zip(svd(found.T), (vh.T, s, u.T), strict=True):
        assert torch.equal(one, other)


def test_most_are_the_first_of_all() -> None:
    found = matrix(SPECTRA["two decades"])
    whole, few = svd(found), svd(found, 40)
    assert [len(few[0].T), len(few[1]), len(few[2])] == [40, 40, 40]
    assert torch.allclose(few[1], whole[1][:40], rtol=0, atol=1e-6)
    product = (few[0] * few[1]) @ few[2]
    assert torch.allclose(product, (whole[0][:, :40] * whole[1][:40]) @ whole[2][:40], atol=1e-6)


@pytest.mark.parametrize("spectrum", [torch.zeros(N), torch.logspace(0, -30, N)])
def test_nothing_at_all_and_values_far_below_rounding_come_to_an_end(spectrum) -> None:
    found = matrix(spectrum)
    u, s, vh = svd(found)
    assert torch.allclose((u * s) @ vh, found, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_matrix_does_not_matter(scale: float) -> None:
    found = matrix(SPECTRA["two decades"])
    assert torch.allclose(svd(found * scale)[1] / scale, svd(found)[1], rtol=1e-4)


@pytest.mark.parametrize("name", ["flat", "two decades", "few"])
def test_large_and_small_matrices_have_the_same_polar_factor(name: str, monkeypatch) -> None:
    found = matrix(SPECTRA[name])
    by_gram = polar(found)
    monkeypatch.setattr(_matrix, "GRAM_FROM", N + 1)
    by_lapack = polar(found)
    assert rank(svd(found)[1], found.shape) == rank(SPECTRA[name], found.shape)
    assert (by_gram - by_lapack).abs().max() < 1e-5
