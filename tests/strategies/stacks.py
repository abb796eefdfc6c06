"""Stacks as tests need them: random deltas, masks given by hand, parameters cut into blocks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltakit.lazy import LazyDelta
from deltakit.strategies import Stack, Strategy, Whole

LOOK = 7  # entries in a look block: a fixed size that divides nothing here


@dataclass(frozen=True, eq=False)
class GivenMasks(Stack):
    """A stack whose masks are given and not drawn."""

    masks: Any = None  # bool (k, *shape)

    def draw(self, expert: int, density: float, start: int, count: int) -> Tensor:
        return self.masks[expert].reshape(-1)[start : start + count]

    def lazy_drawn(self, density: float) -> list[Tensor]:  # type: ignore[override]
        return list(self.masks.flatten(1))


def masks(*rows: str) -> Tensor:
    """Masks written as digits, one string an expert: bool (k, n)."""
    return torch.tensor([[digit == "1" for digit in row] for row in rows])


def random_deltas(experts: int, *shape: int, seed: int = 0, dtype: Any = np.float32) -> Tensor:
    """Deltas of few bits, so that equal magnitudes, zeros and level sums occur: (k, *shape)."""
    values = np.random.default_rng(seed).normal(size=(experts, *shape))
    return torch.from_numpy(np.asarray(np.round(values * 8) / 8, dtype=dtype))


def whole_of(deltas: Tensor, look: int = LOOK, base: Tensor | None = None) -> Whole:
    """The facts of one parameter, read in blocks of `look` entries."""
    flat = deltas.reshape(len(deltas), -1)
    bases = None if base is None else [LazyDelta(b) for b in base.reshape(-1).split(look)]
    return Whole(
        flat.shape[1],
        lambda expert: flat[expert].split(look),
        base=None if bases is None else lambda: bases,
    )


def model_of(parameters: Mapping[str, Tensor], look: int = LOOK) -> Whole:
    """The facts of a model, its parameters sorted by name and read one after the other."""
    joined = [parameters[name].reshape(len(parameters[name]), -1) for name in sorted(parameters)]
    return whole_of(torch.cat(joined, dim=1), look)


def pieces(numel: int, sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ranges that cover `numel` entries, of the sizes given and, for what is left, of the last."""
    start, size = 0, 1
    for size in sizes:
        if start < numel:
            yield start, min(numel, start + size)
        start += size
    while start < numel:
        yield start, min(numel, start + size)
        start += size


def fitting(strategy: Strategy, stack: Stack, sizes: Iterable[int]) -> Iterable[int]:
    """The sizes as the strategy's unit lets a parameter be cut."""
    if strategy.unit == "element":
        return sizes
    if strategy.unit == "row":
        return [size * max(1, stack.row) for size in sizes]
    return [max(1, stack.deltas[0].numel())]


def merge_in_pieces(strategy: Strategy, stack: Stack, sizes: Iterable[int]) -> Tensor:
    """What the engine does: merge flat slices that know the whole they are taken from."""
    flat = stack.deltas.reshape(len(stack.deltas), -1)
    base = None if stack.base is None else stack.base.reshape(-1)
    parts = [
        strategy.merge(
            Stack(
                flat[:, start:stop],
                base=None if base is None else base[start:stop],
                shape=stack.shape,
                weights=stack.weights,
                tasks=stack.tasks,
                name=stack.name,
                seed=stack.seed,
                start=start,
                fact=stack.fact,
                scores=stack.scores,
                whole=stack.whole,
                model=stack.model,
                model_start=stack.model_start,
            )
        )
        for start, stop in pieces(flat.shape[1], fitting(strategy, stack, sizes))
    ]
    return torch.cat([flat.new_empty(0), *parts]).reshape(stack.deltas.shape[1:])


def facts(strategy: Strategy, experts: int, names: list[str], seed: int = 0) -> Mapping[str, Any]:
    """What `prepare` makes of random importance maps, for a strategy that needs them."""
    draws = np.random.default_rng(seed)
    maps = [{name: torch.tensor(draws.random()) for name in names} for _ in range(experts)]
    return strategy.prepare(maps, dict.fromkeys(names, (2,))) if strategy.needs_importance else {}
