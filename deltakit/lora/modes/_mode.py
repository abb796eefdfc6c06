"""What every mode is: settings, and how k low-rank deltas of one module become one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deltakit.errors import BadValue
from deltakit.lora.factors import Factors
from deltakit.recipe import Rule
from deltakit.strategies import Strategy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pack:
    """One module of k adapters: their factors, scaling folded into B, in a fixed order.

    An adapter that does not adapt the module has factors of rank 0. name: the parameter's, which
    random masks depend on. turned: whether the base holds the weight as (inputs, outputs), which
    masks and ties of magnitude depend on as well.
    """

    products: Sequence[Factors]
    weights: Sequence[float]
    scalings: Sequence[float]
    tasks: Sequence[str]
    name: str = ""
    shape: tuple[int, ...] = ()  # of the parameter
    turned: bool = False
    seed: int = 0
    depth: float = 1.0  # where the parameter lies: 0 in the first layer, 1 in the last
    fact: Any = None  # what the mode's prepare returned for this module

    @property
    def ranks(self) -> list[int]:
        return [len(product.a) for product in self.products]


class Mode(ABC):
    """A frozen dataclass in a file of its own: its fields are the settings, `merge` the formula."""

    exact: ClassVar[bool] = False  # what is merged is the weighted sum itself, before any cut
    averages: bool = False  # k identical adapters give one of them, not k times it
    ordered: bool = False  # the order of the adapters changes the result
    needs_importance: ClassVar[bool] = False
    rule: Rule | None = None  # of a strategy applied to the deltas, what stands around it included

    @property
    def settings(self) -> dict[str, Any]:
        """What a recipe keeps of it."""
        return {}

    def check(self, weights: Sequence[float], tasks: Sequence[str]) -> None:
        """Raise BadValue for weights or settings that the formula has no meaning for."""

    def prepare(
        self, ranks: Mapping[str, Sequence[int]], scores: Sequence[Mapping[str, Tensor]]
    ) -> Mapping[str, Any]:
        """Return a fact for each module, before the first is merged."""
        return {}

    def weigh(self, pack: Pack) -> Pack:
        """Return the pack with the weights that the module is merged by."""
        return pack

    def rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        """Return the rank of what `merge` gives for adapters of these ranks, at most."""
        return sum(ranks)

    def default_rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        """Return the rank that the output gets where none is asked for."""
        return self.rank(ranks, shape)

    @abstractmethod
    def merge(self, pack: Pack) -> Factors | Tensor:
        """Return the merged delta: factors, or dense (d_out, d_in) where it is not low-rank."""


def check_strategy(strategy: Strategy, weights: Sequence[float], tasks: Sequence[str]) -> None:
    """Raise BadValue for a strategy that cannot be applied to one module of adapters alone."""
    name = type(strategy).__module__.rpartition(".")[2]
    into_base = "merge into the base: deltakit merge A B --base PATH"
    if strategy.needs_importance:
        raise BadValue(f"{name} needs importance, which this mode has no use for")
    if strategy.looks == "model":
        raise BadValue(
            f"{name} looks at the whole model, which a merge of adapters does not form",
            remedy=f"--set scope=tensor, or {into_base}",
        )
    if getattr(strategy, "on", None) == "models":
        raise BadValue(
            f"{name} on models takes the base's values, which a merge of adapters does not read",
            remedy=f"--set on=deltas, or {into_base}",
        )
    if strategy.most is not None and len(tasks) > strategy.most:
        raise BadValue(f"{name} merges at most {strategy.most} adapters", got=f"{len(tasks)}")
    if not strategy.weighted and any(weight != 1.0 for weight in weights):
        raise BadValue(f"{name} takes no weights", remedy="drop --weights")
    strategy.check_tasks(tasks)
    strategy.check_weights(weights)


def elementwise(strategy: Strategy, deltas: Tensor, pack: Pack) -> Tensor:
    """Return what a strategy makes of whole deltas (k, *shape) in another basis: (*shape)."""
    from deltakit.strategies import Stack

    stack = Stack(deltas, tuple(pack.weights), tuple(pack.tasks), pack.name, seed=pack.seed)
    return strategy.merge(stack)
