"""KlF, Knowledge Localization and Fusion (arXiv:2408.05200; TaSL, arXiv:2408.09857).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> klf = get("klf")
>>> one = {"a": torch.tensor(0.0), "b": torch.tensor(1.0)}  # the importance of parameters a and b
>>> two = {"a": torch.tensor(1.0), "b": torch.tensor(0.0)}
>>> shapes = {"a": (2,), "b": (2,)}
>>> shares = klf.prepare([one, two], shapes)  # of each task when it comes
>>> shares["a"], shares["b"]
([1.0, 1.0], [1.0, 0.0])
>>> klf.merge(Stack(torch.tensor([[1.0, 2.0], [3.0, -2.0]]), name="a", fact=shares["a"]))
tensor([ 3., -2.])
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from deltakit.combination import Combination
from deltakit.errors import BadValue
from deltakit.strategies._klf_chain import Arrivals, Levels, Meeting, found_levels
from deltakit.strategies._klf_levels import Blocks, Units
from deltakit.strategies._klf_units import (
    check_alike,
    common_units,
    kinds,
    means,
    shared_units,
    unit_blocks,
)
from deltakit.strategies._scores import entry_scores
from deltakit.strategies._settings import Positive, Share
from deltakit.strategies._stack import Stack
from deltakit.strategies._strategy import Combining, Scores, Shape
from deltakit.strategies._streaming import Running, Streaming, joined
from deltakit.tensors.header import TensorInfo

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
    reference code's, 0.15 is also reported. units: a skill unit is what the maps score ("map"), a
    parameter tensor, an attention head, a row or a single entry; or each parameter by its mean
    score ("tensor"). A parameter that no map scores is averaged.

    Three options, none of them the paper's, make importance bite. within: normalise and rank among
    all units of the "model", or among those of one "kind", parameters whose names differ in the
    layer's number alone; a kind of a single unit is important to nobody. share: the `quantile` is
    over "units", or over "parameters", each bearing its unit's score, so that at most that share
    of the numbers is important and not of the tensors. contrast: compare not importance but its
    ratio to the mean over the tasks, each map divided by its largest score first; sequential: over
    the tasks up to the one that comes, so that a task can be added later.
    """

    fusion: Literal["static", "adaptive"] = "static"
    order: Literal["sequential", "joint"] = "sequential"
    units: Literal["map", "tensor"] = "map"
    quantile: Share = 0.8
    gamma: Share = 0.7
    beta: Share = 0.7
    tau: Positive = 0.25
    neither: Literal["half", "running_mean"] = "half"
    within: Literal["model", "kind"] = "model"
    share: Literal["units", "parameters"] = "units"
    contrast: bool = False

    family = "importance"
    formula = "per skill unit: a prev + (1 - a) new, a by importance before and now"
    paper = "arXiv:2408.05200"
    ordered = True
    weighted = False
    needs_importance = True
    streams_with = "order=sequential and one score a parameter"

    @property
    def streams(self) -> bool:
        return self.order == "sequential"

    @property
    def combines(self) -> Literal["mean", "sum"]:
        return "mean"

    def prepare(self, scores: Sequence[Scores], shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
        units = common_units(scores, list(shapes))
        if self.order == "joint":
            unscored = [1 / len(scores)] * len(scores)
        else:
            unscored = [1 / k for k in range(1, len(scores) + 1)]
        facts: dict[str, Any] = dict.fromkeys(shapes, unscored)
        shared = {name: [name] for name in units}
        if self.units == "map":
            shared = shared_units(scores, units)
        entries = {n: sum(math.prod(shapes[m]) for m in same) for n, same in shared.items()}
        finer = self.units == "map" and any(
            task[n].numel() != 1 or len(same) > 1 for task in scores for n, same in shared.items()
        )
        if finer:
            check_alike(scores, units)
        sized = entries if self.share == "parameters" else None
        if all(entries[name] == scores[0][name].numel() for name in shared):
            sized = None  # of single entries, each counts as one
        for names in self.compared(list(shared)):
            if finer:
                levels = self._levels(partial(unit_blocks, scores, names, sized), len(scores))
                facts |= {member: levels for name in names for member in shared[name]}
                continue
            table = means(scores, names)  # (tasks, units)
            joint = self.order == "joint"
            sizes = [entries[name] for name in names]
            shares = (self.coefficients if joint else self.arriving)(table, sizes)
            facts |= {name: shares[:, unit].tolist() for unit, name in enumerate(names)}
        return facts

    def compared(self, names: Sequence[str]) -> list[list[str]]:
        """Return names in groups: the units of a group are normalised and ranked together."""
        return kinds(names) if self.within == "kind" else [list(names)]

    def coefficients(self, scores: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Return each task's share of each unit, columns summing to 1: (tasks, units) float64."""
        if self.order == "joint":
            return self._joint(self._table_levels(scores, sizes), scores)
        shares = scores * 0.0
        for k, current in enumerate(self.arriving(scores, sizes)):
            shares *= 1.0 - current
            shares[k] = current
        return shares

    def arriving(self, scores: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        """Return each task's share of each unit when it comes, what was before taking the rest.

        Of the sequential order: (tasks, units) float64, ones for the first task.
        """
        return self._arriving(self._table_levels(scores, sizes), scores)

    def _table_levels(self, scores: np.ndarray, sizes: Sequence[int]) -> Levels | Arrivals:
        import numpy as np

        counted = np.array(sizes) if self.share == "parameters" else None
        return self._levels(lambda: [Units(scores, counted)], len(scores))

    def _levels(self, blocks: Blocks, tasks: int) -> Levels | Arrivals:
        quantile = self.quantile if self.fusion == "static" else None
        beta = self.beta if self.order == "sequential" else None
        return found_levels(blocks, tasks, quantile, beta, self.contrast)

    def _arriving(self, levels: Levels | Arrivals, scores: np.ndarray) -> np.ndarray:
        import numpy as np

        shares = np.ones_like(scores)
        for k, meeting in enumerate(levels.meetings(scores), start=1):
            shares[k] = self._current_share(meeting, k + 1)
        return shares

    def _current_share(self, met: Meeting, k: int) -> np.ndarray:
        """Return the weight of the current task's unit; what came before gets the rest."""
        import numpy as np

        if self.fusion == "adaptive":
            with np.errstate(over="ignore"):  # a tiny tau: exp(inf) gives the shares 0 and 1 meant
                return 1.0 / (1.0 + np.exp((met.before - met.now) / self.tau))
        before, now = met.important_before, met.important_now
        nobody = 0.5 if self.neither == "half" else 1.0 / k
        return np.select([before & now, now, before], [1.0 - self.gamma, 1.0, 0.0], nobody)

    def _joint(self, levels: Levels | Arrivals, scores: np.ndarray) -> np.ndarray:
        import numpy as np

        assert isinstance(levels, Levels)  # nobody arrives
        seen = levels.seen(scores)
        c = np.stack([level.norm(row) for level, row in zip(levels.now, seen, strict=True)])
        if self.fusion == "adaptive":
            with np.errstate(over="ignore"):
                raised = np.exp((c - c.max(axis=0)) / self.tau)
        else:
            found = [level.important(row) for level, row in zip(levels.now, c, strict=True)]
            raised = np.stack(found).astype(np.float64)
            raised[:, raised.sum(axis=0) == 0.0] = 1.0
        return raised / raised.sum(axis=0)

    def _shares_of(self, stack: Stack) -> Tensor:
        """Return each task's share of each entry: float64 (k, *shape)."""
        import torch

        share = self._joint if self.order == "joint" else self._arriving
        if stack.scores[0].shape == stack.shape:  # entries: only those of this block
            each = entry_scores(stack, torch.float64)  # (k, *shape)
            flat = each.reshape(len(each), -1).numpy()
            return torch.from_numpy(share(stack.fact, flat)).reshape(each.shape)
        scores = torch.stack([found.double().reshape(-1) for found in stack.scores])
        shares = torch.from_numpy(share(stack.fact, scores.numpy()))
        shares = shares.reshape(len(shares), *stack.scores[0].shape)
        return entry_scores(dataclasses.replace(stack, scores=tuple(shares)), torch.float64)

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        if any(found.numel() != 1 or found.dim() > 1 for found in scores):
            raise BadValue(
                "a task cannot be added later to what klf fuses by heads, rows or entries: all"
                " their scores would be kept of every task",
                remedy="merge all tasks at once, or with maps of one score a parameter",
            )
        return super().keeps(info, scores)

    def add(self, before: Running, stack: Stack) -> Running:
        deltas = stack.lazy
        shares = stack.fact[-len(deltas) :]
        merged = before.get("sum")
        if merged is not None:
            shares = [1.0, *shares]
        return {"sum": Combination.chain(joined(merged, deltas), shares).tensor}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        return running["sum"]

    def takes_stored(self, facts: Collection[Any]) -> bool:
        return not any(isinstance(fact, (Levels, Arrivals)) for fact in facts)

    def combination(self, stack: Stack) -> Combination:
        if isinstance(stack.fact, (Levels, Arrivals)):
            return Combination.sum(self._by_entry(stack)[None], [1.0])
        if self.order == "joint":
            return Combination.sum(stack.lazy, stack.fact)
        return Combination.chain(stack.lazy, stack.fact)

    def _by_entry(self, stack: Stack) -> Tensor:
        shares = self._shares_of(stack)
        deltas, rest = stack.deltas, (1.0 - shares).to(stack.deltas.dtype)
        shares = shares.to(deltas.dtype)
        total = deltas[0] * shares[0]
        for delta, share, left in zip(deltas[1:], shares[1:], rest[1:], strict=True):
            total = (total if self.order == "joint" else total * left) + delta * share
        return total
