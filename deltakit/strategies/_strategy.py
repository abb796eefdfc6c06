"""What every strategy is: settings that check themselves, and the paper's formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from deltakit.combination import Combination
from deltakit.errors import BadValue
from deltakit.lazy import LazyDeltas
from deltakit.strategies._settings import Settings
from deltakit.strategies._stack import Stack
from deltakit.strategies._whole import Whole

if TYPE_CHECKING:
    from torch import Tensor

Family = Literal["linear", "election", "sphere", "importance", "matrix"]

# task's scores: parameter name -> importance of its units, shape () for tensor units
Scores = Mapping[str, "Tensor"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Strategy(Settings, ABC):
    """How k deltas of one parameter become one.

    A subclass is a frozen dataclass in a file of its own: its fields are the settings, each with
    a default; its docstring is the help; `merge` is the formula. Weights and importance come
    through the stack; the scale is applied by the engine, once, at the end.

    `faithful` and `homogeneous` say which laws the formula keeps: a task alone, nothing dropped,
    comes back; deltas scaled by one factor give a result scaled by it.
    """

    family: ClassVar[Family] = "linear"
    formula: ClassVar[str] = ""
    ordered: ClassVar[bool] = False  # the order of the tasks changes the result
    most: ClassVar[int | None] = None  # tasks it can merge; None for any number
    weighted: ClassVar[bool] = True  # takes a weight for each task
    needs_importance: ClassVar[bool] = False  # `prepare` is given the tasks' importance maps
    draws_entries: ClassVar[bool] = False  # drops entries by the numbers of `Stack.draws`
    statistic: ClassVar[Literal["scores", "gram"]] = "scores"  # what the importance maps hold
    faithful: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
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

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise BadValue for tasks that do not fit the settings."""

    def prepare(self, scores: Sequence[Scores], shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        """Return a whole-model fact for each parameter, before the first is merged.

        `scores` holds one importance map a task, in their order; `shapes` the parameters merged.
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


class Combining(Strategy):
    """A strategy that ends in a sum of deltas, or a sum after a vote: `combination` is the formula.

    What it returns is not computed before the engine adds it to the base, in the same pass.
    """

    def takes_stored(self, facts: Collection[Any]) -> bool:
        """Tell whether deltas go into it as they are stored: none is made a tensor before.

        `facts` are what `prepare` found, of each parameter.
        """
        return True

    @abstractmethod
    def combination(self, stack: Stack) -> Combination:
        """Return the merged delta, not computed yet: k deltas -> 1."""

    def merge(self, stack: Stack) -> Tensor:
        return self.combination(stack).tensor


class Trimming(Combining):
    """A strategy that trims each delta and combines what is left, entry by entry."""

    @property
    @abstractmethod
    def trims(self) -> float | None:
        """The density that each tensor is trimmed to; None where none is, or the whole model."""

    @abstractmethod
    def of_trimmed(self, deltas: LazyDeltas, weights: Sequence[float]) -> Combination:
        """Return the combination of trimmed deltas, whichever entries of a tensor they are."""


def name_of(piece: Settings) -> str:
    """Return the name of a strategy, a mask or a weighting: its file's."""
    return type(piece).__module__.rpartition(".")[2]


def check_votes(strategy: str, weights: Sequence[float]) -> None:
    """Raise BadValue unless no weight is below 0 and one is above: at 0 a task has no vote."""
    if any(not weight >= 0.0 for weight in weights) or not any(weights):
        raise BadValue(
            f"{strategy} votes by weight, so none may be below 0, and one must be above",
            got=", ".join(f"{weight:g}" for weight in weights),
            remedy="task_arithmetic takes any weight",
        )


def check_positive_weights(strategy: str, weights: Sequence[float]) -> None:
    """Raise BadValue unless every weight is above 0."""
    if any(not weight > 0.0 for weight in weights):
        raise BadValue(
            f"{strategy} shares an entry out by weight, so each weight must be above 0",
            got=", ".join(f"{weight:g}" for weight in weights),
            remedy="leave a task out instead of giving it 0; task_arithmetic takes any weight",
        )
