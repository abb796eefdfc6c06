"""A method: weights, a mask, a strategy and a scale by depth, one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deltakit.combination import Combination
from deltakit.errors import BadValue
from deltakit.lazy import LazyDeltas
from deltakit.strategies._masking import Masking
from deltakit.strategies._settings import Looks, Unit, coarsest, farthest
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import (
    Combining,
    Scores,
    Shape,
    Strategy,
    Trimming,
    name_of,
)
from deltakit.strategies._streaming import Running, Streaming
from deltakit.strategies._weighting import Weighting
from deltakit.strategies._whole import Whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Method:
    """What a merge does to each parameter: any mask and weighting before any strategy.

    >>> import torch
    >>> from deltakit.strategies import get, masks
    >>> method = Method(get("ties", {"density": 1}), mask=masks.get("magnitude", {"density": 0.5}))
    >>> method.merge(Stack(torch.tensor([[4.0, -1.0], [2.0, 5.0]])))
    tensor([4., 5.])

    `weighting` finds the weights from the deltas as they come; the mask thins them; the strategy
    sees the masked deltas, and what it needs to know of a whole tensor is found from those;
    `lines` (a, b) multiplies the result by a + b depth, depth running from 0 in the first layer to
    1 in the last (LiNeS, arXiv:2410.17146). Raises BadValue for pieces that do not fit.
    """

    strategy: Strategy
    mask: Masking | None = None
    weighting: Weighting | None = None
    lines: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.weighting is not None and not self.strategy.weighted:
            raise BadValue("the strategy takes no weights", remedy="leave out --weights auto:NAME")
        if self.statistic == "gram" and self.mask is not None and self.mask.needs_importance:
            raise BadValue(
                "the strategy and the mask need different maps, and a task has one",
                remedy="mask by the deltas: by=delta",
            )
        if self.mask is not None and self.mask.draws_entries and self.strategy.draws_entries:
            name = name_of(self.strategy)
            raise BadValue(
                f"the mask and {name} drop at random by the same numbers",
                expected="two independent draws",
                got=f"one by (seed, task, tensor): what the mask keeps, {name} would keep too",
                remedy=f"leave out --mask, or let task_arithmetic or ties take {name}'s place",
            )
        if self.mask is not None and self.strategy.looks == "model":
            raise BadValue(
                "a strategy that ranks the whole model takes no mask beside",
                remedy='rank each tensor on its own: --set scope="tensor"',
            )

    @property
    def unit(self) -> Unit:
        """What a block must not cut. A strategy that looks at masked tensors gets them whole."""
        units = [self.strategy.unit]
        if self.mask is not None:
            units.append("element" if self.strategy.looks == "nothing" else "tensor")
            units.append(self.mask.unit)
        return coarsest(units)

    @property
    def looks(self) -> Looks:
        """What is read before a block can be merged: a whole tensor or the whole model."""
        pieces = [piece for piece in (self.strategy, self.mask, self.weighting) if piece]
        return farthest(piece.looks for piece in pieces)

    @property
    def rescales_draws(self) -> bool:
        """Whether kept entries are multiplied up for those a random mask drops."""
        return self.strategy.rescales_draws or (self.mask is not None and self.mask.rescales_draws)

    @property
    def needs_importance(self) -> bool:
        """Whether every task must have an importance map."""
        masked = self.mask is not None and self.mask.needs_importance
        return self.strategy.needs_importance or masked

    @property
    def statistic(self) -> Literal["scores", "gram"]:
        """What the tasks' importance maps must hold."""
        return self.strategy.statistic

    def prepare(self, scores: Sequence[Scores], shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        """Return the strategy's whole-model fact for each parameter."""
        return self.strategy.prepare(scores, shapes)

    @property
    def trims(self) -> float | None:
        """The density that each tensor is trimmed to where all else is a formula of its entries."""
        if not isinstance(self.strategy, Trimming) or not self.takes_stored():
            return None
        return self.strategy.trims

    def of_trimmed(self, deltas: LazyDeltas, stack: Stack) -> Combination:
        """Return what `merged` makes of trimmed deltas: a stack's, or some of their entries."""
        assert isinstance(self.strategy, Trimming)
        return self.strategy.of_trimmed(deltas, stack.weights).times(self._at(stack))

    def look(self, whole: Whole, expert: int) -> None:
        """Find ahead what `merge` will ask of a whole parameter about one expert."""
        if self.mask is None:  # what a mask leaves is known only where it is merged
            self.strategy.look(whole, expert)

    def takes_stored(self, facts: Collection[Any] = ()) -> bool:
        """Tell whether it ends in a combination of the deltas as they are stored.

        `facts` are what `prepare` found, of each parameter.
        """
        strategy = self.strategy
        return (
            isinstance(strategy, Combining)
            and strategy.takes_stored(facts)
            and self.mask is None
            and self.weighting is None
        )

    @property
    def streams(self) -> bool:
        """Whether a task can be added later: no piece looks at all tasks at once."""
        masked = self.mask is None or self.mask.streams
        strategy = self.strategy
        return (
            isinstance(strategy, Streaming)
            and strategy.streams
            and masked
            and self.weighting is None
        )

    def add(self, before: Running, stack: Stack) -> Running:
        """Return the running tensors after the tasks of the stack; for a method that streams."""
        return self._streaming().add(before, self._seen(stack))

    def result(self, running: Running, weights: Sequence[float], stack: Stack) -> Tensor:
        """Return the merged delta of running tensors, at the depth where the stack lies."""
        return self._scaled(self._streaming().result(running, weights), stack)

    def merge(self, stack: Stack) -> Tensor:
        """Return the merged delta: (k, *shape) -> (*shape)."""
        found = self.merged(stack)
        return found.tensor if isinstance(found, Combination) else found

    def merged(self, stack: Stack) -> Tensor | Combination:
        """Return what `merge` does, not computed yet where the strategy ends in a combination."""
        seen = self._seen(stack)
        if isinstance(self.strategy, Combining):
            return self.strategy.combination(seen).times(self._at(stack))
        return self._scaled(self.strategy.merge(seen), stack)

    def _streaming(self) -> Streaming:
        if not isinstance(self.strategy, Streaming):
            raise TypeError(f"{type(self.strategy).__name__} does not stream")
        return self.strategy

    def found_weights(self, stack: Stack) -> tuple[float, ...]:
        """Return what the weighting finds; BadValue where the strategy has no meaning for it."""
        assert self.weighting is not None
        weights, strategy = self.weighting.weights(stack), name_of(self.strategy)
        try:
            self.strategy.check_weights(weights)
        except BadValue as error:
            raise BadValue(
                f"auto:{name_of(self.weighting)} found weights that {strategy} cannot use:"
                f" {error.fact}",
                where=stack.name or None,
                got=", ".join(f"{weight:g}" for weight in weights),
                remedy="give weights: --weights 1,0.5; or merge by task_arithmetic: it takes any",
            ) from None
        return weights

    def _seen(self, stack: Stack) -> Stack:
        """Return the stack that the strategy gets: weighed and masked."""
        if self.weighting is not None:
            stack = dataclasses.replace(stack, weights=self.found_weights(stack))
        if self.mask is not None:
            masked = self.mask.apply(stack)
            if self.strategy.looks == "nothing":
                stack = dataclasses.replace(stack, deltas=masked)
            else:  # the whole parameter is here: its facts are found from what the mask left
                stack = dataclasses.replace(stack, deltas=masked, whole=None, model=None)
        return stack

    def _scaled(self, merged: Tensor, stack: Stack) -> Tensor:
        return merged if self.lines is None else merged * self._at(stack)

    def _at(self, stack: Stack) -> float:
        """Return what the merged delta is multiplied by at the parameter's depth."""
        if self.lines is None:
            return 1.0
        a, b = self.lines
        return a + b * stack.depth
