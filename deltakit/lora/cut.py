"""Cutting a merged delta to the rank asked for, and what that loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deltakit.errors import BadValue
from deltakit.lora.factors import Factors, shortened, singular_values
from deltakit.lora.spectrum import Spectrum, leading_spectrum, squared_norm, whole_spectrum

if TYPE_CHECKING:
    from torch import Tensor

EXACT_UP_TO = 512  # rows or columns of a dense delta that is decomposed in full


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


def decompose(delta: Tensor, size: Size, seed: int = 0) -> tuple[Spectrum, float]:
    """Return the leading singular values and vectors that `size` needs, and the squared norm.

    All of them up to 512 rows or columns, and where most are needed; else as `leading_spectrum`.
    """
    total, least = squared_norm(delta), min(delta.shape)
    wanted = size.rank or 32
    while least > EXACT_UP_TO and wanted <= least // 12:
        found = leading_spectrum(delta, wanted, seed)
        if found is None:
            break
        if size.energy is None or _energy(found.sigma) >= size.energy * total:
            return found, total
        wanted *= 2
    return whole_spectrum(delta, size.rank), total


def chosen_rank(delta: Factors | Tensor, size: Size, seed: int = 0) -> int:
    """Return the rank that keeps the energy asked for."""
    assert size.energy is not None
    if isinstance(delta, Factors):
        sigma = singular_values(delta)
        total = _energy(sigma)
    else:
        found, total = decompose(delta, size, seed)
        sigma = found.sigma
    held = sigma.double().square().cumsum(0)
    enough = (held >= size.energy * total * (1.0 - 1e-7)).nonzero()
    return int(enough[0]) + 1 if len(enough) else max(1, len(sigma))


def cut(delta: Factors | Tensor, rank: int, seed: int = 0) -> Cut:
    """Return the nearest factors of exactly `rank`; ranks there are not are rows of zeros."""
    if isinstance(delta, Factors):
        if len(delta.a) <= rank:
            return Cut(padded(delta, rank), 1.0)
        factors, sigma = shortened(delta, rank)
        total = _energy(sigma)
    else:
        (u, sigma, v), total = decompose(delta, Size(rank=rank), seed)
        factors = Factors(v[:rank], u[:, :rank] * sigma[:rank])
    kept = min(1.0, _energy(sigma[:rank]) / total) if total else 1.0
    return Cut(padded(factors, rank), kept)


def _energy(sigma: Tensor) -> float:
    return float(sigma.double().square().sum())


def padded(factors: Factors, rank: int) -> Factors:
    """Return the same product with rows of zeros up to `rank`."""
    from torch.nn.functional import pad

    missing = rank - len(factors.a)
    if missing <= 0:
        return factors
    return Factors(pad(factors.a, (0, 0, 0, missing)), pad(factors.b, (0, missing)))
