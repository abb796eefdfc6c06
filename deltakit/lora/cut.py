"""Cutting a merged delta to the rank asked for, and what that loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deltakit.errors import BadValue
from deltakit.lora.factors import Factors, Spectrum, spectrum

if TYPE_CHECKING:
    from torch import Tensor

EXACT_UP_TO = 512  # rows or columns of a dense delta whose SVD is taken in full
OVERSAMPLED = 16
ROUNDS = 2  # of power iteration


class Size(NamedTuple):
    """How large each module's factors may be: a rank, or the share of energy to keep.

    uniform: all modules get the largest rank that one of them needs, filled up with zeros.
    """

    rank: int | None = None
    energy: float | None = None
    uniform: bool = False

    def check(self) -> None:
        if self.rank is not None and self.energy is not None:
            raise BadValue("both a rank and an energy are asked for", remedy="give one of them")
        if self.rank is not None and self.rank < 1:
            raise BadValue("the rank is not above 0", got=f"{self.rank}")
        if self.energy is not None and not 0.0 < self.energy <= 1.0:
            raise BadValue("the energy is outside (0, 1]", got=f"{self.energy:g}")


class Cut(NamedTuple):
    """Factors of a chosen rank, and the share of the squared norm they keep."""

    factors: Factors
    kept: float


def decompose(delta: Factors | Tensor, size: Size, seed: int = 0) -> tuple[Spectrum, float]:
    """Return the leading singular values and vectors that `size` needs, and the squared norm.

    Factors are decomposed exactly; a dense matrix of more than 512 rows and columns by a seeded
    randomised range finder (Halko et al. 2011, arXiv:0909.4061), widened until it is enough.
    """
    import torch

    if isinstance(delta, Factors):
        found = spectrum(delta, size.rank)
        return found, float(found.sigma.double().square().sum())
    total = float(delta.double().square().sum()) if delta.numel() < 1 << 22 else _squares(delta)
    least = min(delta.shape)
    wanted = size.rank or 32
    while least > EXACT_UP_TO and wanted + OVERSAMPLED < least // 2:
        found = _leading(delta, wanted + OVERSAMPLED, seed)
        held = float(found.sigma[:wanted].double().square().sum())
        if size.energy is None or held >= size.energy * total:
            return found, total
        wanted *= 2
    return Spectrum(*torch.linalg.svd(delta, full_matrices=False)), total


def _squares(delta: Tensor) -> float:
    return sum(float(row.double().square().sum()) for row in delta.split(64))


def _leading(delta: Tensor, rank: int, seed: int) -> Spectrum:
    import torch

    draws = torch.Generator().manual_seed(seed)
    start = torch.randn(delta.shape[1], rank, generator=draws, dtype=delta.dtype)
    basis = torch.linalg.qr(delta @ start).Q
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(delta @ torch.linalg.qr(delta.T @ basis).Q).Q
    u, sigma, v = torch.linalg.svd(basis.T @ delta, full_matrices=False)
    return Spectrum(basis @ u, sigma, v)


def chosen_rank(delta: Factors | Tensor, size: Size, seed: int = 0) -> int:
    """Return the rank that keeps the energy asked for."""
    assert size.energy is not None
    found, total = decompose(delta, size, seed)
    squares = found.sigma.double().square().cumsum(0)
    enough = (squares >= size.energy * total * (1.0 - 1e-7)).nonzero()
    return int(enough[0]) + 1 if len(enough) else max(1, len(found.sigma))


def cut(delta: Factors | Tensor, rank: int, seed: int = 0) -> Cut:
    """Return the nearest factors of exactly `rank`; ranks there are not are rows of zeros."""
    if isinstance(delta, Factors) and len(delta.a) <= rank:
        return Cut(padded(delta, rank), 1.0)
    found, total = decompose(delta, Size(rank=rank), seed)
    held = float(found.sigma[:rank].double().square().sum())
    return Cut(padded(found.cut(rank), rank), min(1.0, held / total) if total else 1.0)


def padded(factors: Factors, rank: int) -> Factors:
    """Return the same product with rows of zeros up to `rank`."""
    from torch.nn.functional import pad

    missing = rank - len(factors.a)
    if missing <= 0:
        return factors
    return Factors(pad(factors.a, (0, 0, 0, missing)), pad(factors.b, (0, missing)))
