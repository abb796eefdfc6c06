"""Singular values and vectors of a dense delta: all of them, or the leading ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

LEAST_BLOCK = 16
GAIN = 1e-3  # of the energy found: a round that adds no more was the last
NOTHING = 1e-7  # of the largest singular value: float32 has none below


class Spectrum(NamedTuple):
    """The singular value decomposition u diag(sigma) v: (d_out, m), (m,), (m, d_in)."""

    u: Tensor
    sigma: Tensor
    v: Tensor


def squared_norm(matrix: Tensor) -> float:
    """Return the sum of all squared entries, added up in float64."""
    return sum(float(rows.double().square().sum()) for rows in matrix.split(64))


def whole_spectrum(matrix: Tensor, most: int | None = None) -> Spectrum:
    """Return the `most` largest singular values, or all, exact to rounding.

    >>> import torch
    >>> whole_spectrum(torch.diag(torch.tensor([3.0, 4.0]))).sigma
    tensor([4., 3.])

    float32 through the Gram matrix in float64, whose roots are as exact as float32 is: a quarter
    of the time of LAPACK's SVD. What is below 1e-7 of the largest may have zeros for its vector.
    """
    import torch

    if matrix.dtype == torch.float64:
        u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
        return Spectrum(u[:, :most], sigma[:most], v[:most])
    if matrix.shape[0] > matrix.shape[1]:
        turned = whole_spectrum(matrix.T, most)
        return Spectrum(turned.v.T, turned.sigma, turned.u.T)
    wide = matrix.double()
    found = _from_gram(wide, wide @ wide.T, most)
    return Spectrum(*(part.to(matrix.dtype) for part in found))


def _from_gram(wide: Tensor, gram: Tensor, most: int | None) -> Spectrum:
    """Return the spectrum of a matrix by its rows, fewer than columns, and their products."""
    import torch

    u = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :most]
    rows = u.T @ wide
    sigma = torch.linalg.vector_norm(rows, dim=1)
    v = torch.where((sigma > NOTHING * sigma[0])[:, None], rows / sigma[:, None], 0.0)
    return Spectrum(u, sigma, v)


def leading_spectrum(matrix: Tensor, most: int, seed: int = 0) -> Spectrum | None:
    """Return the `most` largest singular values, or None where that takes most of the matrix.

    >>> import torch
    >>> found = leading_spectrum(torch.diag(0.5 ** torch.arange(600.0)), 2)
    >>> [round(float(value), 3) for value in found.sigma]
    [1.0, 0.5]

    By block Krylov spaces from seeded draws (Musco & Musco 2015, arXiv:1504.05477), widened until
    the energy found grows by less than 0.1 %. Of the energy that so many values can hold at most
    0.2 % is then missing, as measured on noise; the energy of what is returned is exact.
    """
    import torch

    draws = torch.Generator().manual_seed(seed)
    block = max(LEAST_BLOCK, most)
    start = torch.randn(matrix.shape[1], block, generator=draws, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ start).Q  # (d_out, block)
    rows = basis.T @ matrix  # (block, d_in)
    wide = rows.double()
    gram = wide @ wide.T
    before = 0.0
    while True:
        energy = float(torch.linalg.eigvalsh(gram)[-most:].sum())
        if energy - before <= GAIN * energy:
            u, sigma, v = (part.to(matrix.dtype) for part in _from_gram(wide, gram, most))
            return Spectrum(basis @ u, sigma, v)
        if len(gram) + block > 2 * min(matrix.shape) // 3:
            return None
        more = matrix @ torch.linalg.qr(rows.T).Q
        for _ in range(2):  # what is left of a direction found already is rounding error: again
            more = torch.linalg.qr(more - basis @ (basis.T @ more)).Q
        basis = torch.cat([basis, more], dim=1)
        rows = more.T @ matrix
        wide = torch.cat([wide, rows.double()])
        last = wide @ wide[-block:].T
        gram = torch.cat([torch.cat([gram, last[:-block]], dim=1), last.T])
        before = energy
