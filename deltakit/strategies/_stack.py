"""What a strategy is given: one parameter of every expert, or a slice of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from deltakit.drawn import Drawn
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.rng import Draws
from deltakit.strategies._whole import Whole

if TYPE_CHECKING:
    from torch import Tensor

Scope = Literal["tensor", "global"]


class _Base:
    """The field of a stack whose base is given as a tensor or lazy, and read as a tensor."""

    def __get__(self, stack: Stack | None, owner: type) -> Tensor | None:
        given = None if stack is None else stack.stored_base
        return given.tensor if isinstance(given, LazyDelta) else given

    def __set__(self, stack: Stack, base: Tensor | LazyDelta | None) -> None:
        stack.__dict__["_base"] = base


class _Deltas:
    """The field of a stack that is given as a tensor or as LazyDeltas, and read as a tensor."""

    def __get__(self, stack: Stack | None, owner: type) -> Tensor:
        if stack is None:
            raise AttributeError  # a field without a default
        return stack.lazy.tensor

    def __set__(self, stack: Stack, deltas: Tensor | LazyDeltas) -> None:
        lazy = deltas if isinstance(deltas, LazyDeltas) else LazyDeltas.of(deltas)
        stack.__dict__["_lazy"] = lazy


@dataclass(frozen=True, eq=False)
class Stack:
    """One parameter of k experts: deltas to one base, in the order of the tasks.

    >>> import torch
    >>> stack = Stack(torch.tensor([[4.0, -1.0], [2.0, 5.0]]))
    >>> stack.trimmed(0.5)
    tensor([[4., 0.],
            [0., 5.]])

    deltas (k, *shape) float32 or float64; a slice is flat, (k, n), and begins at flat index
    `start` of the parameter, whose shape is `shape`. A strategy must not modify it.
    """

    deltas: _Deltas = _Deltas()  # (k, *shape); given computed, or lazy
    weights: tuple[float, ...] = ()
    tasks: tuple[str, ...] = ()
    name: str = ""
    base: _Base = _Base()  # (*shape), or None
    seed: int = 0
    start: int = 0
    fact: Any = None  # what the strategy's prepare returned for this parameter
    whole: Whole | None = None  # the parameter; made from `deltas` when that is all of it
    model: Whole | None = None  # all parameters, sorted by name; `whole` when there is no other
    shape: tuple[int, ...] | None = None  # of the parameter; that of `deltas` unless told
    scores: tuple[Tensor, ...] = ()  # importance of its skill units, one tensor an expert
    depth: float = 1.0  # where the parameter lies: 0 in the first layer, 1 in the last
    model_start: int = 0  # flat index of this parameter's first entry in `model`
    _draws: dict[str, Draws] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        experts = len(self.lazy)
        if not self.weights:
            object.__setattr__(self, "weights", (1.0,) * experts)
        if not self.tasks:
            object.__setattr__(self, "tasks", tuple(f"task{i + 1}" for i in range(experts)))
        if self.shape is None:
            object.__setattr__(self, "shape", self.lazy.shape)
        if self.whole is None:
            numel, base = math.prod(self.lazy.shape), self.base
            whole = Whole(
                numel,
                lambda expert: [self.deltas[expert].reshape(-1)],
                base=None if base is None else lambda: [LazyDelta(base.reshape(-1))],
            )
            object.__setattr__(self, "whole", whole)
        if self.model is None:
            object.__setattr__(self, "model", self.whole)

    @property
    def lazy(self) -> LazyDeltas:
        """The deltas as the kernels take them, not computed before they are asked for."""
        lazy: LazyDeltas = self.__dict__["_lazy"]
        return lazy

    @property
    def stored_base(self) -> Tensor | LazyDelta | None:
        """The base as it was given."""
        given: Tensor | LazyDelta | None = self.__dict__["_base"]
        return given

    @property
    def row(self) -> int:
        """Entries in a row of the parameter: those that share its first index."""
        assert self.shape is not None
        return math.prod(self.shape[1:] if len(self.shape) > 1 else self.shape)

    @property
    def rows(self) -> Tensor:
        """Whole rows of every expert, as a strategy whose unit is the row gets: (k, rows, row)."""
        return self.deltas.reshape(len(self.deltas), -1, max(1, self.row))

    def trimmed(self, density: float, scope: Scope = "tensor") -> Tensor:
        """Return the deltas with all but each expert's largest magnitudes set to 0.

        The fraction `density` is kept of the whole parameter (`scope="tensor"`) or of the whole
        model (`"global"`), at least one entry; equal magnitudes: the lowest flat index first.
        At density 1 these are the deltas themselves, and not to be modified.
        """
        return self.lazy_trimmed(density, scope).tensor

    def lazy_trimmed(self, density: float, scope: Scope = "tensor") -> LazyDeltas:
        """Return what `trimmed` does, not yet computed."""
        whole, start = self.whole, self.start
        if scope == "global":
            whole, start = self.model, self.model_start + self.start
        assert whole is not None
        if density == 1.0 or not math.prod(self.lazy.shape):
            return self.lazy
        cuts = [whole.cut(expert, density) for expert in range(len(self.tasks))]
        return self.lazy.trimmed(cuts, start)

    def drawn(self, density: float) -> Tensor:
        """Return one random mask an expert, True where kept: bool (k, *shape)."""
        import torch

        count = math.prod(self.lazy.shape)
        masks = [self.draw(i, density, self.start, count) for i in range(len(self.tasks))]
        return torch.stack(masks).reshape(len(masks), *self.lazy.shape)

    def lazy_drawn(self, density: float) -> list[Drawn]:
        """Return what `drawn` does, flat and not yet drawn."""
        stop = self.start + math.prod(self.lazy.shape)
        return [
            self.draws(expert).mask(self.start, stop, density) for expert in range(len(self.tasks))
        ]

    def drawn_each(self, densities: Tensor) -> Tensor:
        """Return random masks with a probability for each entry: (k, *shape) -> bool."""
        import torch

        kept = [
            torch.from_numpy(self.draws(i).keep_each(self.start, row.reshape(-1).numpy()))
            for i, row in enumerate(densities)
        ]
        return torch.stack(kept).reshape(self.deltas.shape)

    def draw(self, expert: int, density: float, start: int, count: int) -> Tensor:
        """Return the expert's mask for `count` entries from flat index `start`: bool (count,)."""
        import torch

        return torch.from_numpy(self.draws(expert).keep(start, start + count, density))

    def draws(self, expert: int) -> Draws:
        """Return the expert's stream of random numbers for this parameter."""
        task = self.tasks[expert]
        draws = self._draws.get(task) or Draws(self.seed, task, self.name)
        self._draws[task] = draws
        return draws
