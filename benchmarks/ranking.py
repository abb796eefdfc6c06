"""How far two importance maps agree on which skill units come first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """Rank correlations in [-1, 1] and the share of the top fifth that two maps have in common."""

    spearman: float
    kendall: float
    top: float

    @classmethod
    def of(cls, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Agreement:
        """Compare two maps of the same units.

        >>> a = {"u": torch.tensor([1.0, 2, 3]), "v": torch.tensor([4.0, 5])}
        >>> b = {"u": torch.tensor([2.0, 1, 3]), "v": torch.tensor([4.0, 9])}
        >>> Agreement.of(a, b)
        Agreement(spearman=0.9, kendall=0.8, top=1.0)

        Equal scores share their ranks (Spearman's rho, Kendall's tau-b). NaN for a constant map.
        """
        x, y = (torch.cat([m[n].double().reshape(-1) for n in sorted(m)]) for m in (one, other))
        above, other_above = ((v[:, None] - v[None, :]).sign() for v in (x, y))  # (n, n)
        kendall = (above * other_above).sum() / (above.abs().sum() * other_above.abs().sum()).sqrt()
        ranks = torch.stack([above.sum(1), other_above.sum(1)])  # (2, n), centred
        spearman = (ranks[0] * ranks[1]).sum() / ranks.square().sum(1).prod().sqrt()
        count = max(1, round(len(x) / 5))
        tops = [set(v.topk(count).indices.tolist()) for v in (x, y)]
        return cls(
            round(spearman.item(), 6), round(kendall.item(), 6), len(tops[0] & tops[1]) / count
        )
