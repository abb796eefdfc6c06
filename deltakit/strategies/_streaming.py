"""Strategies that a task can be added to later: what they keep of the tasks merged so far.

A strategy of this kind is a fold. `add` takes the running tensors of one slice past the tasks of a
stack, `result` makes the merged delta of them; all tasks at once is the same fold begun from
nothing. Sums go on where they stopped, term after term in the tasks' order, so that tasks added one
by one give the bytes of all at once.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from deltakit import ops
from deltakit.combination import Combination
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import (
    Combining,
    Strategy,
    check_votes,
    name_of,
)
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

Running = Mapping[str, "Tensor"]  # by part: "sum", "mass", ..

# A mean is a sum over the sum of the weights. 2^8 times smaller, exactly, it is as far from
# overflowing as its terms are, for the first 2^8 tasks.
_MEAN_UNIT = 2.0**-8


class Streaming(Strategy):
    """A strategy whose running tensors are all that is needed to add a task."""

    streams_with: ClassVar[str] = ""  # the settings that it takes, where not all will do

    @property
    def streams(self) -> bool:
        """Whether a task can be added later with these settings."""
        return True

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        """Return the parts kept of a parameter, whose dtype is the one it is computed in.

        A part of the parameter's shape is kept entry by entry; any other shape only by a strategy
        whose unit is the tensor. `scores` are the importance of the parameter, one a task.
        """
        return {"sum": info}

    @abstractmethod
    def add(self, before: Running, stack: Stack) -> Running:
        """Return the running tensors after the tasks of the stack: new ones, all that it keeps.

        `before` holds those of the earlier tasks, in the stack's shape; empty for none.
        """

    @abstractmethod
    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        """Return the merged delta, a new tensor or one of those; `weights` of all tasks added."""

    def merge(self, stack: Stack) -> Tensor:
        return self.result(self.add({}, stack), stack.weights)


class Sums(Combining, Streaming):
    """Adds up deltas, each thinned by itself."""

    @abstractmethod
    def thinned(self, stack: Stack) -> Tensor | LazyDeltas:
        """Return what is added of each delta: (k, *shape)."""

    def add(self, before: Running, stack: Stack) -> Running:
        return {"sum": added(before.get("sum"), self.thinned(stack), stack.weights)}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return running["sum"]

    def combination(self, stack: Stack) -> Combination:
        return Combination.sum(self.thinned(stack), stack.weights)


class Elects(Combining, Streaming):
    """Elects a sign for each entry of deltas thinned by themselves, and averages those that agree.

    Which sign wins may change with every task, so both sides are kept.
    """

    family = "election"

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    def check_weights(self, weights: Sequence[float]) -> None:
        check_votes(name_of(self), weights)

    @abstractmethod
    def thinned(self, stack: Stack) -> Tensor | LazyDeltas:
        """Return what competes of each delta: (k, *shape)."""

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return dict.fromkeys(("votes", "plus", "minus", "plus_mass", "minus_mass"), info)

    def add(self, before: Running, stack: Stack) -> Running:
        deltas = self.thinned(stack)
        votes = added(before.get("votes"), deltas, stack.weights)
        return {"votes": votes, **sides(before, deltas, stack.weights, stack.weights)}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return winning_mean(running, running["votes"].sign())

    def combination(self, stack: Stack) -> Combination:
        return Combination.elected(self.thinned(stack), stack.weights)


class Shares(Streaming):
    """Averages entry by entry, by a share of each task: sum w_i s_i d_i / sum w_i s_i."""

    @abstractmethod
    def shared(self, stack: Stack) -> tuple[Tensor, Tensor]:
        """Return deltas and shares, (k, *shape) each; shares are not below 0."""

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return {"sum": info, "mass": info}

    def add(self, before: Running, stack: Stack) -> Running:
        deltas, shares = self.shared(stack)
        return {
            "sum": added(before.get("sum"), deltas * shares, stack.weights),
            "mass": added(before.get("mass"), shares, stack.weights),
        }

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return ops.divided(running["sum"].clone(), running["mass"])


def joined(before: Tensor | None, deltas: Tensor | LazyDeltas) -> LazyDeltas:
    """Return deltas with a running tensor before them, as it would be one more: (1 + k, *shape)."""
    lazy = LazyDeltas.of(deltas)
    if before is None:
        return lazy
    return LazyDeltas([LazyDelta(before.reshape(-1)), *lazy.each], lazy.shape, lazy.dtype)


def added(before: Tensor | None, deltas: Tensor | LazyDeltas, weights: Sequence[float]) -> Tensor:
    """Return sum w_i d_i, begun from what was summed before.

    >>> import torch
    >>> added(torch.tensor([10.0]), torch.tensor([[1.0], [3.0]]), [1.0, 2.0])
    tensor([17.])
    """
    if before is None:
        return ops.weighted_sum(deltas, weights)
    return ops.weighted_sum(joined(before, deltas), (1.0, *weights))


def sides(
    before: Running,
    deltas: Tensor | LazyDeltas,
    weights: Sequence[float],
    divisors: Sequence[float] | None,
) -> dict[str, Tensor]:
    """Return the sums of the positive and of the negative deltas, and the divisors of each side.

    All masses are above 0; without divisors there are none.
    """
    import torch

    lazy = joined(None, deltas)
    ones = torch.ones_like(lazy.empty())

    def agreeing(
        part: str, deltas: Tensor | LazyDeltas, weights: Sequence[float], sign: Tensor
    ) -> Tensor:
        found = before.get(part)
        first = () if found is None else (1.0,)
        return ops.disjoint_sum(joined(found, deltas).tensor, (*first, *weights), sign)

    found = {
        "plus": agreeing("plus", lazy, weights, ones),
        "minus": agreeing("minus", lazy, weights, -ones),
    }
    if divisors is not None:
        signs = lazy.tensor.sign()
        found["plus_mass"] = agreeing("plus_mass", signs, divisors, ones)
        found["minus_mass"] = agreeing("minus_mass", -signs, divisors, ones)
    return found


def winning_sum(running: Running, elected: Tensor, part: str = "") -> Tensor:
    """Return what `sides` kept of the elected sign, 0 where none is: (*shape)."""
    zeros = elected.new_zeros(())
    minus = running[f"minus{part}"].where(elected < 0, zeros)
    return running[f"plus{part}"].where(elected > 0, minus)


def winning_mean(running: Running, elected: Tensor) -> Tensor:
    """Return the mean of the side of the elected sign, 0 where none is: (*shape)."""
    return ops.divided(winning_sum(running, elected), winning_sum(running, elected, "_mass"))


def added_to_mean(
    before: Tensor | None, deltas: Tensor | LazyDeltas, weights: Sequence[float]
) -> Tensor:
    """Return sum w_i d_i as `mean_of` divides it."""
    return added(before, deltas, _mean_weights(weights))


def mean(deltas: Tensor | LazyDeltas, weights: Sequence[float]) -> Combination:
    """Return what `mean_of` makes of the sum, not computed yet."""
    total = Combination.sum(deltas, _mean_weights(weights))
    return total.over(math.fsum(weights) * _MEAN_UNIT)


def _mean_weights(weights: Sequence[float]) -> list[float]:
    return [weight * _MEAN_UNIT for weight in weights]


def mean_of(total: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean, a new tensor, of what `added_to_mean` added with these weights.

    >>> import torch
    >>> mean_of(added_to_mean(None, torch.tensor([[1.0], [3.0]]), [1.0, 3.0]), [1.0, 3.0])
    tensor([2.5000])
    """
    return total / (math.fsum(weights) * _MEAN_UNIT)
