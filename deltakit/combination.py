"""The ways in which most methods make one delta of several: a sum, a chain, a sum after a vote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit import kernels, ops
from deltakit.formula import Formula
from deltakit.lazy import LazyDeltas

if TYPE_CHECKING:
    from torch import Tensor

    from deltakit.apart import Apart
    from deltakit.kernels import Found
    from deltakit.stored import Entries, Filled


@dataclass(frozen=True, eq=False)
class Combination:
    """A merged delta that is not computed yet.

    >>> import torch
    >>> deltas = torch.tensor([[4.0, -1.0], [-2.0, 5.0]])
    >>> Combination.sum(deltas, [0.5, 0.5]).tensor
    tensor([1., 2.])
    >>> Combination.elected(deltas, [1.0, 1.0]).times(2.0).tensor
    tensor([ 8., 10.])

    The engine computes it, adds it to the base and rounds in one pass over what is stored.
    """

    deltas: LazyDeltas
    formula: Formula

    @classmethod
    def sum(cls, deltas: Tensor | LazyDeltas, weights: Sequence[float]) -> Combination:
        """Return sum w_i d_i."""
        return cls(LazyDeltas.of(deltas), Formula(weights))

    @classmethod
    def elected(cls, deltas: Tensor | LazyDeltas, weights: Sequence[float]) -> Combination:
        """Return the weighted mean of the entries that have the sign of their weighted sum."""
        return cls(LazyDeltas.of(deltas), Formula(weights, votes=weights, divisors=weights))

    @classmethod
    def chain(cls, deltas: Tensor | LazyDeltas, shares: Sequence[float]) -> Combination:
        """Return (1 - s_i) of what came before + s_i d_i, delta after delta from the first.

        >>> import torch
        >>> Combination.chain(torch.tensor([[8.0], [4.0], [6.0]]), [1.0, 0.5, 0.25]).tensor
        tensor([6.])
        """
        carries = [1.0 - share for share in shares]
        return cls(LazyDeltas.of(deltas), Formula(shares, carries=carries))

    def over(self, divisor: float) -> Combination:
        """Return the combination divided by a number."""
        if math.frexp(divisor)[0] == 0.5:  # a power of two: the same number, found sooner
            return self.times(1.0 / divisor)
        return Combination(self.deltas, self.formula._replace(divisor=divisor))

    def times(self, factor: float) -> Combination:
        """Return the combination multiplied by a factor, after those before."""
        if factor == 1.0:
            return self
        factors = (*self.formula.factors, factor)
        return Combination(self.deltas, self.formula._replace(factors=factors))

    @property
    def tensor(self) -> Tensor:
        """The merged delta: (*shape)."""
        out = self.deltas.empty()
        return out if kernels.combine(self.deltas, self.formula, out) else self._computed()

    def add_to(
        self, base: Entries, out: Tensor | Filled, apart: Apart | None = None
    ) -> Found | None:
        """Write base + this, rounded once, to flat `out`; None where the kernels do not.

        What comes within the ranges of `apart` is also set apart.
        """
        return kernels.combine(self.deltas, self.formula, out, base, squares=True, apart=apart)

    def _computed(self) -> Tensor:
        total = self._total(self.deltas.tensor)
        if self.formula.divisor != 1.0:
            # By a tensor, since a GPU multiplies by the reciprocal of a number.
            total = total / total.new_full((), self.formula.divisor)
        for factor in self.formula.factors:
            total = total * factor
        return total

    def _total(self, deltas: Tensor) -> Tensor:
        weights, votes, divisors, carries, by_count, *_ = self.formula
        if carries is not None:
            total = deltas[0] * weights[0]
            for delta, carry, weight in zip(deltas[1:], carries[1:], weights[1:], strict=True):
                total = total * carry + delta * weight
            return total
        if votes is None:
            return ops.weighted_sum(deltas, weights)
        elected = (ops.count_sign if by_count else ops.elect_sign)(deltas, votes)  # (*shape)
        if divisors is None:
            return ops.disjoint_sum(deltas, weights, elected)
        return ops.disjoint_mean(deltas, weights, elected, divisors)
