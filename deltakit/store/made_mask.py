"""Thinning a delta that is stored by the masks that merges use."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deltakit.errors import BadValue
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.mask import Mask
from deltakit.strategies import Masking, Stack, Whole, depths, masks
from deltakit.strategies._whole import SHORT, Together, stretches
from deltakit.tensors.header import TensorInfo
from deltakit.threads import MOST

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_HELD = MOST + 1  # parameters: as many as threads may be at, and one


@dataclass(frozen=True)
class MaskPlan:
    """A mask of `deltakit.strategies.masks` that is still to be made from a task's delta."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def masking(self) -> Masking:
        """Return the mask with its settings, rescaling nothing.

        A stored delta keeps its values, and is of one task: BadValue for a rescale, and for a mask
        that means nothing without the other tasks or their importance.
        """
        if self.name == "random":
            raise BadValue(
                "a random mask is kept as its seed", remedy="Mask.random(density, seed, task)"
            )
        fields = {f.name for f in dataclasses.fields(masks.find(self.name))}
        plain = {"rescale": "none"} if "rescale" in fields else {}
        made = masks.get(self.name, {**plain, **self.settings})
        if made.rescales_draws:
            raise BadValue(
                "a stored delta keeps its values as they are",
                where=f"mask {self.name}",
                got="a rescale",
                remedy="rescale when you merge",
            )
        if not made.alone:
            raise BadValue(
                f"the mask {self.name}, so set, depends on other tasks or on the model",
                remedy="thin by it when you merge: deltakit merge --mask",
            )
        return made


class MadeMask(Mask):
    """A mask of the family that merges use, made from the delta of one task.

    `read(name, start, stop)` gives flat entries of the delta, in memory that it may use again.
    Several threads may ask. What is found of a whole parameter is remembered; of a mask that needs
    whole rows or whole tensors, which entries of the last few parameters are kept. Such a mask is
    made of one parameter at a time, since that takes several times its size.
    """

    def __init__(
        self,
        plan: MaskPlan,
        task: str,
        infos: Mapping[str, TensorInfo],
        read: Callable[[str, int, int], LazyDelta],
    ) -> None:
        self._plan, self._task, self._infos, self._read = plan, task, infos, read
        self._masking = plan.masking()
        self._depths = depths(infos)
        self._wholes: dict[str, Whole] = {}
        self._lock = threading.Lock()
        self._held: dict[str, np.ndarray] = {}
        self.lazy = self._by_entry and self._masking.is_lazy

    @property
    def _by_entry(self) -> bool:
        return self._masking.unit == "element"

    def keep(self, name: str, start: int, stop: int, delta: Tensor | None = None) -> np.ndarray:
        entries = self._read(name, start, stop) if delta is None else LazyDelta(delta)
        kept: np.ndarray = self.thinned(name, start, entries).tensor.ne(0).numpy()
        return kept

    def look(self, name: str) -> None:
        if self._masking.looks == "tensor" and self._by_entry:
            self.thinned(name, 0, self._read(name, 0, min(1, self._infos[name].numel)))

    def thinned(self, name: str, start: int, delta: LazyDelta) -> LazyDelta:
        if not self._by_entry:
            import torch

            kept = torch.from_numpy(self._all_kept(name)[start : start + delta.numel()])
            return replace(delta, kept=kept)
        with self._lock:
            if name not in self._wholes:
                self._wholes[name] = self._whole(name)
            whole = self._wholes[name]
        stack = self._stack(name, start, delta, whole)
        if self._masking.is_lazy:  # left to the kernels
            return self._masking.lazily(stack).each[0]
        return replace(delta, kept=self._masking.apply(stack)[0].ne(0))

    def _all_kept(self, name: str) -> np.ndarray:
        with self._lock:
            kept = self._held.pop(name, None)
            if kept is None:
                while len(self._held) >= _HELD:
                    del self._held[next(iter(self._held))]
                delta = self._read(name, 0, self._infos[name].numel)
                stack = self._stack(name, 0, delta, self._whole(name))
                kept = self._masking.apply(stack)[0].ne(0).numpy()
            self._held[name] = kept  # the last that was asked for
            return kept

    def _stack(self, name: str, start: int, delta: LazyDelta, whole: Whole) -> Stack:
        return Stack(
            LazyDeltas([delta], (delta.numel(),), delta.dtype),
            tasks=(self._task,),
            name=name,
            seed=self._plan.seed,
            start=start,
            whole=whole,
            shape=self._infos[name].shape,
            depth=self._depths[name],
        )

    def _whole(self, name: str) -> Whole:
        numel = self._infos[name].numel

        def blocks(experts: Sequence[int], entries: int) -> Iterator[list[LazyDelta]]:
            for start in range(0, numel, entries):
                yield [self._read(name, start, min(start + entries, numel))]

        def sample(experts: Sequence[int]) -> Iterator[list[LazyDelta]]:
            for start, stop in stretches(numel):
                yield [self._read(name, start, min(stop, numel))]

        return Whole(
            numel,
            lambda expert: (delta.tensor for (delta,) in blocks([expert], SHORT)),
            together=Together(1, blocks, sample, lambda expert: numel),
        )

    def describe(self) -> dict[str, str]:
        told = dataclasses.asdict(self._masking)
        settings = {key: str(value) for key, value in told.items() if key != "rescale"}
        drawn = {"task": self._task, "seed": str(self._plan.seed)} if self._masking.draws else {}
        return {"mask": self._plan.name, **settings, **drawn}
