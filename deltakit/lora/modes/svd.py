"""svd: the nearest matrix of rank k to the weighted sum, without forming it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deltakit.lora.factors import Factors, stacked
from deltakit.lora.modes._mode import Mode, Pack


@dataclass(frozen=True)
class Svd(Mode):
    """The best rank-k approximation of sum w_i s_i B_i A_i, by QR of the stacked factors.

    The largest of the adapters' ranks unless a rank or an energy is asked for.
    """

    exact = True

    def default_rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return min(max(ranks), *shape)

    def merge(self, pack: Pack) -> Factors:
        return stacked(pack.products, pack.weights)
