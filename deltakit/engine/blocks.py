"""Reading one block of every expert, and whole-tensor facts, into reused buffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deltakit.engine.plan import Plan
from deltakit.strategies._stack import Stack, Whole
from deltakit.tensors.dtypes import working_dtype

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOOK_BLOCK = 1 << 18  # fixed, so that a sum over a tensor does not depend on the block size


class Buffers:
    """A worker's own memory: raw bytes, the base's block, and a stack of deltas.

    Allocated once, because fresh temporaries cost more in page faults than the arithmetic on them.
    """

    def __init__(self, experts: int, block: int) -> None:
        import torch

        self.raw = torch.empty(block * 8, dtype=torch.uint8)
        self._base = torch.empty(block * 8, dtype=torch.uint8)
        self._deltas = torch.empty(experts * block * 8, dtype=torch.uint8)
        self._experts = experts

    def base(self, count: int, dtype: torch.dtype) -> Tensor:
        return self._base.view(dtype)[:count]

    def deltas(self, count: int, dtype: torch.dtype) -> Tensor:
        flat = self._deltas.view(dtype)[: self._experts * count]
        return flat.view(self._experts, count)  # (k, count)


class StackReader:
    """Makes the stack of any block of any parameter, with facts about the whole at hand."""

    def __init__(self, plan: Plan) -> None:
        import threading

        self._plan = plan
        self._lock = threading.Lock()
        self._wholes: dict[str, Whole] = {}
        self._weights = tuple(task.weight for task in plan.recipe.tasks)
        self._names = tuple(task.name for task in plan.recipe.tasks)
        self._starts: dict[str, int] = {}
        at = 0
        for name in plan.merged:
            self._starts[name] = at
            at += plan.base.infos[name].numel
        self._model = Whole(at, self._model_blocks)

    def read(self, name: str, start: int, stop: int, buffers: Buffers) -> Stack:
        """Return the stack of flat entries start..stop, in the worker's buffers."""
        dtype = working_dtype(self._plan.base.infos[name].dtype)
        base = self._base_block(name, start, stop, buffers, dtype)
        deltas = buffers.deltas(stop - start, dtype)
        for delta, expert in zip(deltas, self._plan.experts, strict=True):
            expert.source.block_into(delta, name, start, base)
        return Stack(
            deltas,
            self._weights,
            self._names,
            name,
            base,
            seed=self._plan.recipe.seed,
            start=start,
            fact=self._plan.facts.get(name),
            whole=self._whole(name),
            model=self._model,
            model_start=self._starts[name],
        )

    def _base_block(
        self, name: str, start: int, stop: int, buffers: Buffers, dtype: torch.dtype
    ) -> Tensor:
        base = buffers.base(stop - start, dtype)
        base.copy_(self._plan.base.block(name, start, stop, buffers.raw))
        return base

    def _whole(self, name: str) -> Whole:
        with self._lock:
            if name not in self._wholes:
                numel = self._plan.base.infos[name].numel
                self._wholes[name] = Whole(numel, lambda expert: self._blocks(name, expert))
            return self._wholes[name]

    def _blocks(self, name: str, expert: int) -> Iterator[Tensor]:
        """Yield one expert's delta of a parameter, block after block, in one reused buffer."""
        info = self._plan.base.infos[name]
        dtype = working_dtype(info.dtype)
        buffers = Buffers(1, min(LOOK_BLOCK, info.numel))
        for start in range(0, info.numel, LOOK_BLOCK):
            stop = min(start + LOOK_BLOCK, info.numel)
            base = self._base_block(name, start, stop, buffers, dtype)
            delta = buffers.deltas(stop - start, dtype)[0]
            self._plan.experts[expert].source.block_into(delta, name, start, base)
            yield delta

    def _model_blocks(self, expert: int) -> Iterator[Tensor]:
        for name in self._plan.merged:
            yield from self._blocks(name, expert)
