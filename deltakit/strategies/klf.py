"""KlF, Knowledge Localization and Fusion (arXiv:2408.05200; TaSL, arXiv:2408.09857).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> klf = get("klf")
>>> one = {"a": torch.tensor(0.0), "b": torch.tensor(1.0)}  # the importance of parameters a and b
>>> two = {"a": torch.tensor(1.0), "b": torch.tensor(0.0)}
>>> shares = klf.prepare([one, two], ["a", "b"])  # of each task when it comes
>>> shares["a"], shares["b"]
([1.0, 1.0], [1.0, 0.0])
>>> klf.merge(Stack(torch.tensor([[1.0, 2.0], [3.0, -2.0]]), name="a", fact=shares["a"]))
tensor([ 3., -2.])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deltakit.combination import Combination
from deltakit.errors import BadValue, NamesDiffer, some
from deltakit.strategies._settings import Positive, Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Combining, Scores
from deltakit.strategies._streaming import Running, Streaming, joined

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Klf(Combining, Streaming):
    """Fuse task after task, each skill unit by how important it is to the old and to the new.

    fusion: "static" shares a unit important to both (gamma stays with the old), keeps the owner's
    where one needs it, and halves the rest; important means strictly above the `quantile` over
    all units. "adaptive" weighs every unit by sigmoid((c - p) / tau). order: "sequential" is the
    paper's chain in the order given; "joint" treats each unit at once over all tasks (mean over
    the tasks it is important to; softmax of importance / tau), whatever the order. neither: what
    a unit important to nobody gets in the static chain, half the new one (the paper) or its
    "running_mean" share 1/k. beta is the memory of the cumulative importance. tau 0.25 is the
    reference code's, 0.15 is also reported. A skill unit is a parameter tensor; one that no map
    scores is averaged.
    """

    fusion: Literal["static", "adaptive"] = "static"
    order: Literal["sequential", "joint"] = "sequential"
    units: Literal["tensor"] = "tensor"
    quantile: Share = 0.8
    gamma: Share = 0.7
    beta: Share = 0.7
    tau: Positive = 0.25
    neither: Literal["half", "running_mean"] = "half"

    family = "importance"
    formula = "per skill unit: a prev + (1 - a) new, a by importance before and now"
    paper = "arXiv:2408.05200"
    ordered = True
    weighted = False
    needs_importance = True
    streams_with = "order=sequential"

    @property
    def streams(self) -> bool:
        return self.order == "sequential"

    @property
    def combines(self) -> Literal["mean", "sum"]:
        return "mean"

    def prepare(self, scores: Sequence[Scores], names: Sequence[str]) -> Mapping[str, Any]:
        units = _common_units(scores, names)
        table = _table(scores, units)  # (tasks, units)
        if self.order == "joint":
            shares, unscored = self.coefficients(table), [1 / len(scores)] * len(scores)
        else:
            shares, unscored = self.arriving(table), [1 / k for k in range(1, len(scores) + 1)]
        facts: dict[str, Any] = dict.fromkeys(names, unscored)
        facts.update({name: shares[:, unit].tolist() for unit, name in enumerate(units)})
        return facts

    def coefficients(self, scores: np.ndarray) -> np.ndarray:
        """Return each task's share of each unit, columns summing to 1: (tasks, units) float64."""
        import numpy as np

        with np.errstate(over="ignore"):  # a tiny tau: exp(inf) gives the shares 0 and 1 meant
            if self.order == "joint":
                return self._joint(scores)
        shares = scores * 0.0
        for k, current in enumerate(self.arriving(scores)):
            shares *= 1.0 - current
            shares[k] = current
        return shares

    def arriving(self, scores: np.ndarray) -> np.ndarray:
        """Return each task's share of each unit when it comes, what was before taking the rest.

        Of the sequential order: (tasks, units) float64, ones for the first task.
        """
        import numpy as np

        shares = np.ones_like(scores)
        cumulative = scores[0]
        for k in range(1, len(scores)):
            p, c = normalise(cumulative), normalise(scores[k])
            with np.errstate(over="ignore"):
                shares[k] = self._current_share(p, c, k + 1)
            cumulative = self.accumulate(p, c)
        return shares

    def accumulate(self, p: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return Norm(beta p + (1 - beta) c), the cumulative importance the next task meets."""
        return normalise(self.beta * p + (1.0 - self.beta) * c)

    def _current_share(self, p: np.ndarray, c: np.ndarray, k: int) -> np.ndarray:
        """Return the weight of the current task's unit; what came before gets the rest."""
        import numpy as np

        if self.fusion == "adaptive":
            return 1.0 / (1.0 + np.exp((p - c) / self.tau))
        before, now = self._important(p), self._important(c)
        nobody = 0.5 if self.neither == "half" else 1.0 / k
        return np.select([before & now, now, before], [1.0 - self.gamma, 1.0, 0.0], nobody)

    def _joint(self, scores: np.ndarray) -> np.ndarray:
        import numpy as np

        c = np.stack([normalise(row) for row in scores])  # (tasks, units)
        if self.fusion == "adaptive":
            raised = np.exp((c - c.max(axis=0)) / self.tau)
        else:
            raised = np.stack([self._important(row) for row in c]).astype(np.float64)
            raised[:, raised.sum(axis=0) == 0.0] = 1.0
        return raised / raised.sum(axis=0)

    def _important(self, normalised: np.ndarray) -> np.ndarray:
        import numpy as np

        return normalised > np.quantile(normalised, self.quantile)

    def add(self, before: Running, stack: Stack) -> Running:
        deltas = stack.lazy
        shares = stack.fact[-len(deltas) :]
        merged = before.get("sum")
        if merged is not None:
            shares = [1.0, *shares]
        return {"sum": Combination.chain(joined(merged, deltas), shares).tensor}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return running["sum"]

    def combination(self, stack: Stack) -> Combination:
        if self.order == "joint":
            return Combination.sum(stack.lazy, stack.fact)
        return Combination.chain(stack.lazy, stack.fact)


def normalise(scores: np.ndarray) -> np.ndarray:
    """Return min-max normalised scores in [0, 1]; a constant map becomes all zeros.

    >>> import numpy as np
    >>> normalise(np.array([2.0, 10.0, 4.0]))
    array([0.  , 1.  , 0.25])
    """
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0.0 else scores * 0.0


def _common_units(scores: Sequence[Scores], names: Sequence[str]) -> list[str]:
    """Return the parameters that every map scores; one that only some score is an error.

    Parameters in no map (buffers, which training has no gradient for) are averaged.
    """
    units = [name for name in names if any(name in task for task in scores)]
    for number, task in enumerate(scores):
        missing = [name for name in units if name not in task]
        if missing:
            raise NamesDiffer(
                f"the importance map of task {number + 1} lacks parameters that another map has",
                where=some(missing),
                remedy="capture all maps over the same parameters",
            )
    if not units:
        raise NamesDiffer(
            "the importance maps name none of the model's parameters",
            expected=some(list(names)),
            got=some([name for task in scores for name in task]) or "no names",
        )
    return units


def _table(scores: Sequence[Scores], units: Sequence[str]) -> np.ndarray:
    import numpy as np

    for task in scores:
        for name in units:
            if task[name].numel() != 1:
                raise BadValue(
                    "klf fuses tensor units, one score a parameter",
                    where=name,
                    got=f"scores of shape {list(task[name].shape)}",
                    remedy='capture the importance with units="tensor"',
                )
    return np.array([[float(task[name]) for name in units] for task in scores], dtype=np.float64)
