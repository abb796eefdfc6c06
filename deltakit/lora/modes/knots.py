"""knots (Stoica et al. 2024, arXiv:2410.19735): adapters aligned by one SVD of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltakit.lora.factors import Factors
from deltakit.lora.modes._mode import Mode, Pack, check_strategy, elementwise
from deltakit.lora.modes.core_space import inner_settings
from deltakit.strategies import Strategy


@dataclass(frozen=True)
class Knots(Mode):
    """U S (strategy of the V_i), where [D_1 ... D_k] = U S [V_1 ... V_k].

    strategy: applied to the V_i, of R rows for R ranks in all. The SVD is taken from the factors:
    no delta is formed.
    """

    strategy: Strategy

    @property
    def averages(self) -> bool:  # type: ignore[override]
        return self.strategy.combines != "sum"

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        return self.strategy.ordered

    @property
    def settings(self) -> dict[str, Any]:
        return inner_settings(self.strategy)

    def check(self, weights: Sequence[float], tasks: Sequence[str]) -> None:
        check_strategy(self.strategy, weights, tasks)

    def rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return min(sum(ranks), shape[0])

    def merge(self, pack: Pack) -> Factors:
        import torch

        q, r = torch.linalg.qr(torch.cat([p.b for p in pack.products], dim=1))  # (d_out, m), (m, R)
        parts = r.split(pack.ranks, dim=1)
        rows = [core @ p.a for core, p in zip(parts, pack.products, strict=True)]  # (m, d_in) each
        # The left singular vectors of all rows, from the small Gram matrix of their own QR.
        across = torch.cat(rows, dim=1)  # (m, k d_in)
        _, triangle = torch.linalg.qr(across.T)  # (m, m)
        _, sigma, v = torch.linalg.svd(triangle)
        aligned = torch.stack([v @ part for part in rows])  # (k, m, d_in) = S V_i
        inverse = torch.where(sigma > sigma[0] * 1e-6, 1.0 / sigma, 0.0)[:, None]
        merged = elementwise(self.strategy, aligned * inverse, pack)  # (m, d_in)
        return Factors(merged, (q @ v.T) * sigma)
