"""Any strategy, on the deltas themselves, one module at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from deltakit.errors import BadValue
from deltakit.lora.modes._deltas import Deltas
from deltakit.lora.modes._mode import Mode, Pack, check_strategy
from deltakit.recipe import Rule
from deltakit.strategies import Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Elementwise(Mode):
    """The strategy's formula on each module's deltas, then factored again to the rank asked for.

    What is merged is what `deltakit merge` makes of the same adapters, tasks and seed, with the
    same mask, weighting and scale by depth around it.
    """

    rule: Rule

    @cached_property
    def method(self) -> Method:
        return self.rule.method(0.0)

    @property
    def averages(self) -> bool:  # type: ignore[override]
        return self.method.strategy.combines != "sum"

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        mask = self.method.mask
        return self.method.strategy.ordered or (mask is not None and mask.ordered)

    @property
    def settings(self) -> dict[str, Any]:
        return self.rule.settings

    def check(self, weights: Sequence[float], tasks: Sequence[str]) -> None:
        into_base = "merge into the base: deltakit merge A B --base PATH"
        if self.rule.gradients:
            raise BadValue(
                "a setting is a list, and a merge of adapters has one number for all layers",
                got=f"{self.rule.settings}"[:80],
                remedy=f"give one number, or {into_base}, with a recipe",
            )
        check_strategy(self.method.strategy, weights, tasks)
        mask, weighting = self.rule.mask, self.rule.weighting
        if mask and self.method.needs_importance:
            raise BadValue(
                f"the mask {mask.name} needs importance, which this mode has no use for",
                remedy=f"--mask {mask.name}:by=delta, or {into_base}",
            )
        if self.method.looks == "model":
            piece = weighting or mask
            assert piece
            raise BadValue(
                f"{piece.name} looks at the whole model, which a merge of adapters does not form",
                remedy=f"{piece.name}:scope=tensor, or {into_base}",
            )
        if weighting and any(weight != 1.0 for weight in weights):
            raise BadValue(
                "weights are given and are to be found", remedy="leave out one or the other"
            )

    def rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return min(shape)

    def default_rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return min(sum(ranks), *shape)

    def weigh(self, pack: Pack) -> Pack:
        if self.method.weighting is None:
            return pack
        first = next(Deltas(pack).stacks(whole=self.method.unit != "element"))
        return dataclasses.replace(pack, weights=self.method.found_weights(first))

    def merge(self, pack: Pack) -> Tensor:
        import torch

        method = dataclasses.replace(self.method, weighting=None)  # the pack is weighed
        merged = torch.empty(prod(pack.shape), dtype=pack.products[0].a.dtype)
        for stack in Deltas(pack).stacks(whole=method.unit != "element"):
            made = method.merge(stack).reshape(-1)
            merged[stack.start : stack.start + len(made)] = made
        dense = merged.reshape(pack.shape[0], -1)
        return dense.T if pack.turned else dense
