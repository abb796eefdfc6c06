"""linear: PEFT's mode of that name, which sums A and B apart and so has cross terms B_i A_j."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deltakit.errors import BadValue
from deltakit.lora.factors import Factors
from deltakit.lora.modes._mode import Mode, Pack


@dataclass(frozen=True)
class Linear(Mode):
    """A = sum sqrt|w_i s_i| A_i, B = sum sqrt|w_i s_i| B_i, the sign of w_i s_i on A.

    Not the weighted sum: (sum A)(sum B) has terms of two different adapters, and the error
    printed after the merge tells how much. Needs equal ranks; `cat` and `svd` have neither fault.
    """

    def rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        if len(set(ranks)) > 1:
            raise BadValue(
                "linear adds factors rank by rank, and the ranks differ",
                got=", ".join(map(str, ranks)),
                remedy="merge with --mode svd or cat, which take any ranks",
            )
        return ranks[0]

    def merge(self, pack: Pack) -> Factors:
        import torch

        rows, columns = [], []
        for product, weight, s in zip(pack.products, pack.weights, pack.scalings, strict=True):
            if len(product.a):
                root = math.sqrt(abs(weight * s))
                rows.append(product.a * math.copysign(root, weight * s))
                columns.append(product.b * (root / s if s else 1.0))  # B holds s already
        return Factors(torch.stack(rows).sum(0), torch.stack(columns).sum(0))
