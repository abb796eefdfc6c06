"""cat: the exact weighted sum, by stacking the factors; the ranks add up."""

from __future__ import annotations

from dataclasses import dataclass

from deltakit.lora.factors import Factors, stacked
from deltakit.lora.modes._mode import Mode, Pack


@dataclass(frozen=True)
class Cat(Mode):
    """A = stack of A_i, B = stack of w_i s_i B_i: exact, of the sum of the ranks."""

    exact = True

    def merge(self, pack: Pack) -> Factors:
        return stacked(pack.products, pack.weights)
