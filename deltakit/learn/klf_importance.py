"""Importance of every parameter, captured while a task is trained (KlF, arXiv 2408.05200)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from deltakit.errors import BadValue, DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.learn import scores
from deltakit.learn.gradients import Gradient, finite
from deltakit.learn.head_units import Heads
from deltakit.learn.parameters import tracked
from deltakit.learn.rank_units import A, B, adapted_modules, rank_scores
from deltakit.learn.recurrence import Recurrence
from deltakit.tensors.checkpoint import Checkpoint

TIMINGS = ("before", "after")
BUFFERS = ("device", "cpu")
UNITS = ("tensor", "head", "row", "element", "rank")


class KlfImportance:
    """Follow |weight * gradient| of every trainable parameter through a training run.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> importance = KlfImportance.attach(model)
    >>> for _ in range(3):
    ...     model(torch.ones(4, 2)).sum().backward()
    ...     _ = importance.step()           # with gradients in place, before the optimizer
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> list(importance.map("sums"))
    ['bias', 'weight']

    State is two float32 buffers per tracked parameter (`buffer_bytes`) and a block to work in
    (`scratch_bytes`), zero at the start: attach anew for every task. Entries of the buffers that
    have decayed to 2^-100 become 0 at every 32nd scored step. What is scored is the
    gradient found in `.grad`: with clipping that is the clipped one (a clip at 1.0 is active on
    most steps of a fine-tuning), so call `step` after it; with a GradScaler call
    `scaler.unscale_(optimizer)` first; with gradient accumulation call it once per optimizer
    step. A parameter or an embedding's row without a gradient counts as gradient zero: s = 0, and
    its state decays. Scores: `first` |w g|, `second` (w g)^2, `mixed` |w g - (w g)^2 / 2|.
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        *,
        units: str,
        score: str,
        a1: float,
        a2: float,
        timing: str,
        base: str | None,
        every: int = 1,
        buffers: str = "device",
        heads: Heads | None = None,
    ) -> None:
        self.parameters = parameters
        self.units = units
        self.score = scores.check_score(score)
        self.a1, self.a2 = a1, a2
        if timing not in TIMINGS:
            raise BadValue("unknown timing", expected=" or ".join(TIMINGS), got=timing)
        if not isinstance(every, int) or every < 1:
            raise BadValue(
                "every is no whole number above 0",
                expected="a number of optimizer steps, 1 to score each of them",
                got=str(every),
            )
        if buffers not in BUFFERS:
            raise BadValue("unknown place for buffers", expected=" or ".join(BUFFERS), got=buffers)
        self.timing = timing
        self.base = base
        self.every = every
        self.buffers = buffers
        self.heads = heads
        self.steps = 0
        self.skipped = 0
        self._calls = 0
        rule = scores.Rule(self.score, a1, a2)
        self._recurrence = Recurrence(parameters, rule, on_cpu=buffers == "cpu")

    @classmethod
    def attach(
        cls,
        model: torch.nn.Module,
        score: str = "first",
        a1: float = scores.DECAY,
        a2: float = scores.DECAY,
        timing: str = "before",
        *,
        base: str | Path | None = None,
        names: Iterable[str] | None = None,
        units: str = "tensor",
        heads: int | None = None,
        every: int = 1,
        window: int | None = None,
        buffers: str = "device",
    ) -> KlfImportance:
        """Start following the trainable parameters of `model`; nothing in it is changed.

        `timing="before"` is what the formula says: w_t with g_t. `timing="after"` reproduces the
        reference code: call `step` AFTER `optimizer.step()` and before `zero_grad()`, so that the
        new weight meets the old (clipped) gradient; the first call is ignored, as there.
        `base` is the checkpoint the training starts from; its fingerprint goes into the map, so
        that a map cannot be merged with deltas of another base. `names` keeps only these
        parameters (checkpoint names). `units="row"` or `"element"` gives one score a row of each
        parameter or each entry; `units="rank"` one a rank of a LoRA, for which the paper takes
        `score="mixed"`; `units="head"` one an attention head, the mean over its rows of q, k and v
        and its columns of o, and one a tensor elsewhere. `heads` is their number, which the model's
        config tells where it has one (grouped queries: of key-value heads, each with its query
        heads). `every=n` scores the first call of `step` and every n-th after it: a n-th of the
        cost, and a window n times as long in training steps.
        `window=n` sets a1 = a2 = 1 - 1/n, for which the last n scored steps count and not the last
        seven: the steps of the whole training, divided by `every`, weigh all of it.
        `buffers="cpu"` keeps the two buffers in main memory, for a model that fills its
        accelerator; each step then moves one float32 a tracked parameter there. Raises `BadValue`
        for a setting or name that is wrong and `DeltakitError` for units that capture does not
        support.
        """
        if units not in UNITS:
            raise DeltakitError(
                "capture does not support these skill units",
                expected=", ".join(UNITS),
                got=f'units="{units}"',
            )
        parameters = tracked(model, names)
        if units == "rank":
            adapted_modules(parameters)
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        a1, a2 = scores.decays(a1, a2, window)
        return cls(
            parameters,
            units=units,
            score=score,
            a1=a1,
            a2=a2,
            timing=timing,
            base=None if base is None else Checkpoint.open(base).fingerprint(),
            every=every,
            buffers=buffers,
            heads=Heads.of(model, shapes, heads) if units == "head" else None,
        )

    @torch.no_grad()
    def step(self) -> bool:
        """Score the gradients now in place; return False when this step was not counted.

        A NaN or infinite gradient anywhere skips the step for the whole map, bit for bit, and is
        counted. Raises `DeltakitError` when no tracked parameter has a gradient.
        """
        if all(p.grad is None for p in self.parameters.values()):
            raise DeltakitError(
                "no tracked parameter has a gradient",
                where="KlfImportance.step",
                remedy="call it after backward() and before zero_grad()",
            )
        # With `timing="after"` as in the reference: its first step is not scored.
        turn = self._calls - (self.timing == "after")
        self._calls += 1
        if turn < 0 or turn % self.every:
            return False
        gradients = {
            name: Gradient.of(p.grad) for name, p in self.parameters.items() if p.grad is not None
        }
        if not finite(gradients.values()):
            self.skipped += 1
            return False
        self._recurrence.advance_(gradients)
        self.steps += 1
        return True

    def map(self, task: str, provenance: Mapping[str, str] | None = None) -> ImportanceMap:
        """Return one float32 score a skill unit, float64 a rank: the mean of I*U over it.

        Tensor units: shape (), by parameter. Row units: (rows,), element units: the parameter's
        shape, head units: as `ImportanceMap` says. Rank units: shape (r,), by the adapted module.
        `provenance` is added to what the map says of its making. Raises `DeltakitError` when no
        step was counted and `NonFinite` for a score that is no number (a weight that overflowed).
        """
        if not self.steps:
            raise DeltakitError(
                "no training step was captured",
                where=f'importance of task "{task}"',
                got=f"{self._calls} calls of step, {self.skipped} with NaN or Inf gradients",
                remedy="call step() once per optimizer step",
            )
        return ImportanceMap(
            self._unit_scores(),
            task=task,
            units=self.units,
            score=self.score,
            base=self.base,
            provenance={
                "method": "klf capture",
                "a1": repr(self.a1),
                "a2": repr(self.a2),
                "timing": self.timing,
                "every": str(self.every),
                "steps": str(self.steps),
                "steps_skipped_nonfinite": str(self.skipped),
                **(provenance or {}),
            },
        )

    def _unit_scores(self) -> dict[str, Tensor]:
        self._recurrence.settle_()
        means, product = self._recurrence.means, self._recurrence.product
        if self.units == "rank":
            wide = torch.float64  # products of four small numbers, which float32 takes for 0
            return {
                module: rank_scores(product(module + A, wide), product(module + B, wide))  # (r,)
                for module in adapted_modules(means)
            }
        if self.units == "tensor":
            return {
                name: torch.tensor(scores.unit_score(m.state, m.spread), dtype=torch.float32)  # ()
                for name, m in means.items()
            }
        if self.heads is not None:
            return self.heads.scores((name, product(name)) for name in means)
        each = {name: product(name).cpu() for name in means}
        if self.units == "element":
            return each
        return {name: scores.row_scores(found) for name, found in each.items()}

    @property
    def buffer_bytes(self) -> int:
        """Bytes of I and U, from the first counted step on: 8 a tracked scalar."""
        return sum(means.nbytes for means in self._recurrence.means.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes to work in, the same for a model of any size: 1.5 MiB on a CPU."""
        blocks = self._recurrence.scratch.values()
        return sum(scratch.product.nbytes + scratch.gradient.nbytes for scratch in blocks)

    def save(self, path: str | Path, task: str, *, replace: bool = False) -> None:
        """Write `map(task)` to `path`, a safetensors file; refuse an existing one by default."""
        self.map(task).save(path, replace=replace)
