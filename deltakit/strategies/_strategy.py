"""What every strategy is: settings that check themselves, and the paper's formula."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

import msgspec

from deltakit.errors import BadValue, nearest
from deltakit.strategies._stack import Stack, Whole

if TYPE_CHECKING:
    from torch import Tensor

# task's scores: parameter name -> importance of its units, shape () for tensor units
Scores = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Strategy(ABC):
    """How k deltas of one parameter become one.

    A subclass is a frozen dataclass in a file of its own: its fields are the settings, each with
    a default; its docstring is the help; `merge` is the formula. Settings given as text become
    what the field's type says, or BadValue; `check` then looks at their values. Weights and
    importance come through the stack; the scale is applied by the engine, once, at the end.
    """

    ordered: ClassVar[bool] = False  # the order of the tasks changes the result
    weighted: ClassVar[bool] = True  # takes a weight for each task
    needs_importance: ClassVar[bool] = False  # `prepare` is given the tasks' importance maps
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _converted(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        self.check()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise BadValue(f"{field.name} is not a finite number", got=f"{value}")

    def check(self) -> None:
        """Raise BadValue for a setting whose value the formula has no meaning for."""

    @property
    def combines(self) -> Literal["mean", "sum"]:
        """Whether k identical deltas, nothing dropped, give one of them or k times it."""
        return "sum"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        """What is read before a block can be merged: a whole tensor or the whole model."""
        return "nothing"

    @property
    def rescales_draws(self) -> bool:
        """Whether kept entries are multiplied up for those a random mask drops."""
        return False

    def check_weights(self, weights: Sequence[float]) -> None:
        """Raise BadValue for weights the formula has no meaning for."""

    def prepare(self, scores: Sequence[Scores], names: Sequence[str]) -> Mapping[str, Any]:
        """Return a whole-model fact for each parameter, before the first is merged.

        `scores` holds one importance map a task, in their order; `names` the parameters merged.
        The fact of a parameter reaches `merge` as `stack.fact`.
        """
        return {}

    def look(self, whole: Whole, expert: int) -> None:
        """Find what `merge` will ask of a whole parameter (or model) about one expert.

        Only a matter of time: it is called before the first merge of the parameter, for different
        experts side by side, so that no merge waits for what another is finding.
        """

    @abstractmethod
    def merge(self, stack: Stack) -> Tensor:
        """Return the merged delta: (k, *shape) -> (*shape)."""


def _converted(name: str, value: Any, hint: Any) -> Any:
    """Return a setting as the type of its field; BadValue with the nearest word if it cannot be."""
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        parts = get_args(hint)
        words = [word for part in parts for word in (get_args(part) or [part]) if type(word) is str]
        number = hint is float or float in parts
        close = nearest(str(value), words)
        raise BadValue(
            f"{name} cannot be {value!r}",
            expected=" or ".join(["a number"] * number + words),
            remedy=f"did you mean {close!r}?" if close else None,
        ) from None


def check_fraction(name: str, value: float, *, zero: bool = False, one: bool = True) -> None:
    """Raise BadValue unless `value` is a fraction in the interval that the flags close."""
    low = value >= 0.0 if zero else value > 0.0
    high = value <= 1.0 if one else value < 1.0
    if not (low and high):
        raise BadValue(
            f"{name} is outside {'[' if zero else '('}0, 1{']' if one else ')'}",
            got=f"{value:g}",
            remedy="give a fraction, not a percentage" if value > 1 else "choose one inside",
        )


def check_positive_weights(strategy: str, weights: Sequence[float]) -> None:
    """Raise BadValue unless every weight is above 0."""
    if any(not weight > 0.0 for weight in weights):
        raise BadValue(
            f"{strategy} shares an entry out by weight, so each weight must be above 0",
            got=", ".join(f"{weight:g}" for weight in weights),
            remedy="leave a task out instead of giving it 0; task_arithmetic takes any weight",
        )
