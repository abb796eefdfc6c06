"""core_space (Panariello et al. 2025, arXiv:2509.17786): merged in a basis all adapters share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltakit.lora.factors import Factors
from deltakit.lora.modes._mode import Mode, Pack, check_strategy, elementwise
from deltakit.strategies import Strategy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CoreSpace(Mode):
    """U' (strategy of the cores U'^T B_i A_i V') V'^T, with U', V' bases of all B_i and all A_i.

    strategy: applied to the cores, small square matrices; with a linear one the result is the
    weighted sum itself. Settings that are not the mode's are the strategy's.
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
        return min(sum(ranks), *shape)

    def merge(self, pack: Pack) -> Factors:
        import torch

        left = _basis(torch.cat([p.b for p in pack.products], dim=1))  # (d_out, m)
        right = _basis(torch.cat([p.a for p in pack.products]).T)  # (d_in, n)
        cores = torch.stack([(left.T @ p.b) @ (p.a @ right) for p in pack.products])  # (k, m, n)
        merged = elementwise(self.strategy, cores, pack)  # (m, n)
        if merged.shape[0] <= merged.shape[1]:
            return Factors(merged @ right.T, left)
        return Factors(right.T, left @ merged)


def _basis(columns: Tensor) -> Tensor:
    """Return the left singular vectors of a tall matrix, from a QR and a small SVD."""
    import torch

    q, r = torch.linalg.qr(columns)
    return q @ torch.linalg.svd(r, full_matrices=False).U


def inner_settings(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy's name and settings, as a mode that holds one keeps them."""
    name = type(strategy).__module__.rpartition(".")[2]
    return {"strategy": name, **dataclasses.asdict(strategy)}
