"""The two running means of one parameter, whose rows may decay late."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltakit.learn.blocks import Part, Scratch, step_
from deltakit.learn.gradients import Gradient
from deltakit.learn.scores import Rule, block_size, decay_, flush_


@dataclass
class Late:
    """Which rows of a parameter have decays to catch up with."""

    done: Tensor  # (rows,) uint8: for how many of the last `due` steps each has decayed already
    alive: Tensor  # (rows,) bool: which may be other than 0
    due: int = 0


class RunningMeans:
    """I and U of one parameter: `state` and `spread`, flat float32, zero at the start.

    Most rows of an embedding are not reached by a step, and only decay. They do that when one
    reaches them, or `settle_` is called, many steps at once while they are in cache: the same bits
    for less memory traffic. A row that is zero does not decay at all. `flush_` is to come before
    255 steps are due.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        size = math.prod(shape)
        self.state, self.spread = torch.zeros(size, device=device), torch.zeros(size, device=device)
        self._shape = shape
        self._late: Late | None = None  # where no step has reached single rows

    @property
    def nbytes(self) -> int:
        """Bytes of I and U: 8 a scalar."""
        return self.state.nbytes + self.spread.nbytes

    def advance_(
        self, weight: Tensor, gradient: Gradient | None, scratch: Scratch, rule: Rule
    ) -> Part | None:
        """Advance by one step, or return what `step_` is to do that for, together with others.

        None for a gradient says that it is zero everywhere.
        """
        if gradient is not None and gradient.rows is not None:
            self._reach_(weight, gradient.values, gradient.rows, scratch, rule)
        elif gradient is not None:
            self.settle_(rule)
            self._late = None
            return Part(self.state, self.spread, weight.reshape(-1), gradient.values.reshape(-1))
        elif self._late is not None:
            self._late.due += 1
        else:
            decay_(self.state, self.spread, rule)
        return None

    def settle_(self, rule: Rule) -> None:
        """Let every row that is late decay."""
        late = self._late
        if late is not None and late.due:
            self._catch_up_(late, late.alive.nonzero()[:, 0], rule)
            late.done.zero_()
            late.due = 0

    def flush_(self, rule: Rule) -> None:
        """Settle, and set to 0 what is too small to matter: it would make every step slow."""
        self.settle_(rule)
        flush_(self.state)
        flush_(self.spread)
        if self._late is not None:
            self._late.alive = self._alive()

    def _alive(self) -> Tensor:
        i, u = (matrix.amax(dim=1) for matrix in self._matrices)  # (rows,): never negative
        return (i != 0) | (u != 0)

    @property
    def _matrices(self) -> tuple[Tensor, Tensor]:
        shape = self._shape[0], math.prod(self._shape[1:])
        return self.state.view(shape), self.spread.view(shape)

    def _reach_(
        self, weight: Tensor, gradient: Tensor, rows: Tensor, scratch: Scratch, rule: Rule
    ) -> None:
        """Advance rows (m,) by their gradient (m, ...); all others are late by one step more."""
        if self._late is None:
            alive = self._alive()
            self._late = Late(torch.zeros_like(alive, dtype=torch.uint8), alive)
        late, at = self._late, rows.to(self.state.device)
        if len(rows):
            self._catch_up_(late, at, rule)
            i, u = (matrix[at] for matrix in self._matrices)  # (m, n)
            flat = (tensor.reshape(-1) for tensor in (i, u, weight[rows], gradient))
            step_([Part(*flat)], scratch, rule)
            for matrix, reached in zip(self._matrices, (i, u), strict=True):
                matrix.index_copy_(0, at, reached)
        late.due += 1
        late.done[at], late.alive[at] = late.due, True

    def _catch_up_(self, late: Late, rows: Tensor, rule: Rule) -> None:
        """Let some rows decay for the steps by which they are late, the latest first."""
        if not len(rows):
            return
        steps, order = (late.due - late.done[rows].long()).sort(descending=True)
        rows, width = rows[order], self._matrices[0].shape[1]
        together = max(1, block_size(rows.device) // max(1, width))
        for at, behind in zip(rows.split(together), steps.split(together), strict=True):
            i, u = (matrix[at] for matrix in self._matrices)  # (m, n)
            each = [-number for number in behind.tolist()]
            for step in range(-each[0]):
                count = bisect_left(each, -step)  # those that are late by more
                decay_(i[:count].view(-1), u[:count].view(-1), rule)
            for matrix, settled in zip(self._matrices, (i, u), strict=True):
                matrix.index_copy_(0, at, settled)
