"""What every strategy is: settings that check themselves, and the paper's formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from deltakit.errors import BadValue
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor

# task's scores: parameter name -> importance of its units, shape () for tensor units
Scores = Mapping[str, "Tensor"]


class Strategy(ABC):
    """How k deltas of one parameter become one.

    A subclass is a frozen dataclass in a file of its own: its fields are the settings, checked in
    `__post_init__`; its docstring is the help; `merge` is the formula. Weights and importance come
    through the stack; the scale is applied by the engine, once, at the end.
    """

    ordered: ClassVar[bool] = False  # the order of the tasks changes the result
    weighted: ClassVar[bool] = True  # takes a weight for each task
    needs_importance: ClassVar[bool] = False  # `prepare` is given the tasks' importance maps
    paper: ClassVar[str] = ""

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        """What is read before a block can be merged: a whole tensor or the whole model."""
        return "nothing"

    def check_weights(self, weights: Sequence[float]) -> None:
        """Raise BadValue for weights the formula has no meaning for."""

    def prepare(self, scores: Sequence[Scores], names: Sequence[str]) -> Mapping[str, Any]:
        """Return a whole-model fact for each parameter, before the first is merged.

        `scores` holds one importance map a task, in their order; `names` the parameters merged.
        The fact of a parameter reaches `merge` as `stack.fact`.
        """
        return {}

    @abstractmethod
    def merge(self, stack: Stack) -> Tensor:
        """Return the merged delta: (k, *shape) -> (*shape)."""


def check_fraction(name: str, value: float, *, zero: bool = False, one: bool = True) -> None:
    """Raise BadValue unless `value` is a fraction in the interval that the flags close."""
    low = value >= 0.0 if zero else value > 0.0
    high = value <= 1.0 if one else value < 1.0
    if not (low and high):
        raise BadValue(
            f"{name} is outside {'[' if zero else '('}0, 1{']' if one else ')'}",
            got=f"{value:g}",
            remedy="give a fraction, not a percentage" if value > 1 else None,
        )


def check_positive_weights(strategy: str, weights: Sequence[float]) -> None:
    """Raise BadValue unless every weight is above 0."""
    if any(not weight > 0.0 for weight in weights):
        raise BadValue(
            f"{strategy} divides by sums of weights, so each must be above 0",
            got=", ".join(f"{weight:g}" for weight in weights),
            remedy="leave a task out instead of giving it 0; task_arithmetic takes any weight",
        )
