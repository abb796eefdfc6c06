"""Any element-wise strategy, on the deltas themselves, one module at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltakit.lora.low_rank import LowRank
from deltakit.lora.modes._mode import Mode, Pack, check_strategy
from deltakit.strategies import Stack, Strategy, Whole

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 18  # entries; k of these are dense at a time, where the strategy takes blocks


@dataclass(frozen=True)
class Elementwise(Mode):
    """The strategy's formula on each module's deltas, then factored again to the rank asked for.

    What is merged is what `deltakit merge` makes of the same adapters, tasks and seed.
    """

    strategy: Strategy

    @property
    def averages(self) -> bool:  # type: ignore[override]
        return self.strategy.combines != "sum"

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        return self.strategy.ordered

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self.strategy)

    def check(self, weights: Sequence[float], tasks: Sequence[str]) -> None:
        check_strategy(self.strategy, weights, tasks)

    def rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return min(shape)

    def default_rank(self, ranks: Sequence[int], shape: tuple[int, int]) -> int:
        return min(sum(ranks), *shape)

    def merge(self, pack: Pack) -> Tensor:
        import torch

        if pack.turned:
            deltas = [LowRank(p.a.T, p.b.T) for p in pack.products]
        else:
            deltas = [LowRank(p.b, p.a) for p in pack.products]
        shape = deltas[0].rows, deltas[0].columns
        numel, dtype = shape[0] * shape[1], pack.products[0].a.dtype
        step = BLOCK if self.strategy.unit == "element" else numel  # others see it whole
        merged = torch.empty(numel, dtype=dtype)
        scratch = torch.empty(len(deltas), min(step, numel), dtype=dtype)

        def blocks(expert: int) -> Iterator[Tensor]:
            for start in range(0, numel, BLOCK):
                block = torch.zeros(min(BLOCK, numel - start), dtype=dtype)
                deltas[expert].add_to(block, start)
                yield block

        whole = Whole(numel, blocks)
        for start in range(0, numel, step):
            count = min(step, numel - start)
            stack = scratch[:, :count].zero_()
            for out, delta in zip(stack, deltas, strict=True):
                delta.add_to(out, start)
            merged[start : start + count] = self.strategy.merge(
                Stack(
                    stack,
                    tuple(pack.weights),
                    tuple(pack.tasks),
                    pack.name,
                    seed=pack.seed,
                    start=start,
                    whole=whole,
                    shape=pack.shape,
                )
            ).reshape(-1)
        dense = merged.reshape(shape)
        return dense.T if pack.turned else dense
