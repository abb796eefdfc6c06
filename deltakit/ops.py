"""Pure tensor maths: no files, no state, no randomness of their own.

Everything here gives the same number for an element whether it is handed the whole parameter or
any slice of it, and adds experts one after the other in the order given: torch's own reductions
over a short axis may add in another order for another length. Products are rounded before they
are added (no fused multiply-add), so equal opposite terms cancel exactly. Beyond the largest float
a term or a sum is infinite, and opposite infinities add up to NaN: nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from deltakit import kernels
from deltakit.formula import Formula
from deltakit.lazy import LazyDeltas

if TYPE_CHECKING:
    from torch import Tensor


def weighted_sum(deltas: Tensor | LazyDeltas, weights: Sequence[float]) -> Tensor:
    """Return sum_i w_i d_i, added in order.

    >>> import torch
    >>> weighted_sum(torch.tensor([[1.0, 2.0], [3.0, -2.0]]), [0.5, 2.0])
    tensor([ 6.5000, -3.0000])

    deltas (k, *shape), weights k numbers -> (*shape).
    """
    import torch

    lazy = LazyDeltas.of(deltas)
    total = lazy.empty()
    if kernels.combine(lazy, Formula(weights), total):
        return total
    deltas = lazy.tensor
    torch.mul(deltas[0], weights[0], out=total)
    term = torch.empty_like(total)  # one for all: fresh memory costs more than the product
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total += torch.mul(delta, weight, out=term)
    return total


def elect_sign(deltas: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the sign of the weighted sum: +1, -1, or 0 where the sum is zero."""
    return weighted_sum(deltas, weights).sign_()


def count_sign(deltas: Tensor, votes: Sequence[float] | None = None) -> Tensor:
    """Return the sign held by more experts, or by more votes: +1, -1, or 0 where they are level."""
    return weighted_sum(deltas.sign(), votes or [1.0] * len(deltas)).sign()


def agreeing(delta: Tensor, elected: Tensor) -> Tensor:
    """Return 1 where a delta has the elected sign, else 0.

    A delta of 0 agrees with nothing, and where no sign was elected nobody agrees. Numbers and not
    bools, because torch multiplies by a bool ten times as slowly.
    """
    return (delta * elected).sign_().relu_()


def disjoint_sum(deltas: Tensor, weights: Sequence[float], elected: Tensor) -> Tensor:
    """Return sum of w_i d_i over the experts of the elected sign: (k, *shape) -> (*shape)."""
    import torch

    total = torch.zeros_like(elected)
    for delta, weight in zip(deltas, weights, strict=True):
        total += agreeing(delta, elected).mul_(delta).mul_(weight)
    return total


def disjoint_mean(
    deltas: Tensor,
    weights: Sequence[float],
    elected: Tensor,
    divisors: Sequence[float] | None = None,
) -> Tensor:
    """Return the sum over the experts that agree, divided by their weights; 0 where none does.

    >>> import torch
    >>> deltas = torch.tensor([[4.0, -1.0], [2.0, 5.0]])
    >>> disjoint_mean(deltas, [1.0, 1.0], torch.tensor([1.0, 1.0]))
    tensor([3., 5.])

    deltas (k, *shape), weights k numbers, elected (*shape) of 1, -1 and 0 -> (*shape). `divisors`:
    what each agreeing expert adds to the divisor, its weight unless told; each above 0.
    """
    import torch

    divisors = weights if divisors is None else divisors
    total = torch.zeros_like(elected)
    mass = torch.zeros_like(total)
    for delta, weight, divisor in zip(deltas, weights, divisors, strict=True):
        agrees = agreeing(delta, elected)
        mass.add_(agrees * divisor)
        total += agrees.mul_(delta).mul_(weight)
    return divided(total, mass)


def shared_mean(deltas: Tensor, weights: Sequence[float], shares: Tensor) -> Tensor:
    """Return sum w_i s_i d_i / sum w_i s_i entry by entry; 0 where no share is above 0.

    >>> import torch
    >>> deltas = torch.tensor([[4.0, 1.0], [2.0, 5.0]])
    >>> shares = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> shared_mean(deltas, [1.0, 1.0], shares)
    tensor([2.5000, 0.0000])

    deltas, shares (k, *shape) -> (*shape); weights above 0, shares not below.
    """
    return divided(weighted_sum(deltas * shares, weights), weighted_sum(shares, weights))


def divided(total: Tensor, mass: Tensor) -> Tensor:
    """Return total / mass in the memory of `total`; 0 where both are 0. No mass is below 0."""
    import torch

    # Where the mass is 0 so is the total: divided by anything else that gives the 0 that is meant.
    return total.div_(mass.clamp(min=torch.finfo(mass.dtype).tiny))


def kept_count(numel: int, density: float) -> int:
    """Return how many of `numel` entries a trim to `density` keeps: rounded, at least one."""
    return min(numel, max(1, round(density * numel)))


def kept_density(drop_rate: float) -> float:
    """Return 1 - drop_rate as decimal fractions: 0.9 keeps 0.1 and not 0.09999999999999998.

    >>> kept_density(0.9)
    0.1
    """
    return float(1 - Decimal(str(drop_rate)))
