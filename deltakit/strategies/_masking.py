"""What every mask is: settings that check themselves, and which entries stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from deltakit.lazy import LazyDeltas
from deltakit.strategies._settings import Settings
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor

Inverse = Literal["none", "inverse"]


@dataclass(frozen=True)
class Masking(Settings, ABC):
    """Which entries of each delta stay, and what those are multiplied by.

    A subclass is a frozen dataclass in a file of its own in `masks`. `apply` reads the stack,
    whose facts are those of the deltas before any mask.
    """

    formula: ClassVar[str] = ""
    needs_importance: ClassVar[bool] = False
    draws: ClassVar[bool] = False  # which entries stay is drawn at random
    ordered: ClassVar[bool] = False  # the order of the tasks changes which entries stay
    streams: ClassVar[bool] = False  # a task's mask depends on that task alone: others can be added
    streams_with: ClassVar[str] = ""  # the settings with which it does, where not with all
    draws_entries: ClassVar[bool] = False  # at random, by the numbers of `Stack.draws`

    @property
    def alone(self) -> bool:
        """Whether it means something for the delta of one task, without the others."""
        return not self.needs_importance

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        """What is read before a block can be masked: a whole tensor or the whole model."""
        return "nothing"

    @property
    def rescales_draws(self) -> bool:
        """Whether kept entries are multiplied up for those a random mask drops."""
        return False

    @abstractmethod
    def apply(self, stack: Stack) -> Tensor:
        """Return the masked deltas, a new tensor: (k, *shape) -> (k, *shape)."""

    @property
    def is_lazy(self) -> bool:
        """Whether the kernels can do what `apply` does: `lazily` was written with it, or after."""
        lines = type(self).__mro__
        apply, lazily = (
            next(number for number, each in enumerate(lines) if name in vars(each))
            for name in ("apply", "lazily")
        )
        return lazily <= apply

    def lazily(self, stack: Stack) -> LazyDeltas:
        """Return what `apply` does, not yet computed where the kernels can."""
        return LazyDeltas.of(self.apply(stack))


# The smallest divisor: what is kept with a smaller probability is not kept, and 0 / 0 is no number.
SMALLEST = 2.0**-126


def thin(stack: Stack, densities: Tensor, rescale: Inverse) -> Tensor:
    """Return the deltas with each entry kept at its own probability: (k, *shape) both."""
    kept = stack.drawn_each(densities)
    masked = stack.deltas * kept
    if rescale == "inverse":
        masked = (masked / densities.to(masked.dtype)).where(kept, masked.new_zeros(()))
    return masked
