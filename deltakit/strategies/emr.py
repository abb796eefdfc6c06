"""EMR-Merging: elect, mask, rescale (Huang et al. 2024, arXiv:2405.17461).

>>> import torch
>>> from deltakit.strategies import Stack, get
>>> deltas = torch.tensor([[4.0, -1.0, 2.0, 3.0], [2.0, 3.0, -1.0, 1.0]])
>>> get("emr").merge(Stack(deltas))
tensor([4., 3., 2., 3.])
>>> get("emr", {"task": "sms"}).merge(Stack(deltas, tasks=("trec", "sms")))
tensor([2.8000, 2.1000, 0.0000, 2.1000])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit import ops
from deltakit.errors import BadValue
from deltakit.strategies._facts import derived_totals, of_model, whole_of
from deltakit.strategies._stack import Scope, Stack
from deltakit.strategies._streaming import Running, Streaming, added, winning_sum
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Emr(Streaming):
    """Unify the deltas: the elected sign with the largest magnitude that has it.

    task: empty for the unified delta; the name of a task rebuilds that task's model from it, with
    the mask where its own delta has the unified sign and the rescaler
    sum |d_i| / sum |mask_i unified|. scope: those sums are over the whole model, one rescaler a
    task as in the paper, for which a task has one weight everywhere; or over each tensor on its
    own. `deltakit unify` keeps the unified delta and the masks, in place of all deltas.
    """

    task: str = ""
    scope: Scope = "global"

    family = "election"
    formula = "sign(sum w_i d_i) max |w_i d_i| over the agreeing; mask and rescale"
    paper = "Huang et al. 2024, arXiv:2405.17461"
    streams_with = "no task"

    @property
    def streams(self) -> bool:
        return not self.task

    @property
    def combines(self) -> Literal["mean", "sum", "neither"]:
        return "mean"

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        if not self.task:
            return "nothing"
        return "model" if self.scope == "global" else "tensor"

    def check_tasks(self, tasks: Sequence[str]) -> None:
        if self.task and self.task not in tasks:
            raise BadValue(
                f"emr is to rebuild {self.task!r}, which is none of the tasks",
                expected=", ".join(tasks),
            )

    def keeps(self, info: TensorInfo, scores: Sequence[Tensor]) -> Mapping[str, TensorInfo]:
        return dict.fromkeys(("votes", "plus", "minus"), info)

    def add(self, before: Running, stack: Stack) -> Running:
        votes = added(before.get("votes"), stack.lazy, stack.weights)
        plus, minus = before.get("plus", votes * 0), before.get("minus", votes * 0)
        for delta, weight in zip(stack.deltas, stack.weights, strict=True):
            pull = (delta * weight).nan_to_num_()
            plus, minus = plus.maximum(pull), minus.maximum(-pull)
        return {"votes": votes, "plus": plus, "minus": minus}

    def result(self, running: Running, weights: Sequence[float]) -> Tensor:
        elected = running["votes"].sign()
        return winning_sum(running, elected) * elected

    def merge(self, stack: Stack) -> Tensor:
        unified = self.unified(stack.deltas, stack.weights)
        if not self.task:
            return unified
        expert = stack.tasks.index(self.task)
        agrees = ops.agreeing(stack.deltas[expert], unified)
        return unified * agrees * self.rescalers(stack)[expert]

    def rescalers(self, stack: Stack) -> list[float]:
        """Return sum |d_i| / sum |mask_i unified| of each expert, 0 where its mask keeps nothing.

        Over the model or the parameter that the stack is a slice of, as `scope` says.
        """

        def masked(deltas: Tensor, _: int) -> Tensor:
            whole = self.unified(deltas, stack.weights)
            return ops.agreeing(deltas, whole).mul_(whole).abs_()  # (k, n)

        seen = of_model(stack) if self.scope == "global" else stack
        whole, experts = whole_of(seen), len(seen.lazy)
        first = whole.fact("emr weights", lambda: stack.weights)
        if first != stack.weights:
            raise BadValue(
                "a rescaler over the model has no meaning with other weights in one parameter than"
                " in another",
                where=stack.name or None,
                expected=", ".join(f"{weight:g}" for weight in first),
                got=", ".join(f"{weight:g}" for weight in stack.weights),
                remedy="the same weights everywhere, or a rescaler a tensor: --set scope=tensor",
            )
        own = derived_totals(whole, experts, "l1", lambda deltas, _: deltas.abs())
        kept = derived_totals(whole, experts, "emr", masked)
        return [o / k if k else 0.0 for o, k in zip(own, kept, strict=True)]

    @staticmethod
    def unified(deltas: Tensor, weights: Sequence[float]) -> Tensor:
        """Return the elected sign times the largest magnitude that has it: (k, n) -> (n,)."""
        elected = ops.elect_sign(deltas, weights)
        largest = elected * 0
        for delta, weight in zip(deltas, weights, strict=True):
            largest = largest.maximum((delta * weight * elected).nan_to_num_())
        return largest * elected
