"""Thinning a delta that is stored by the masks that merges use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltakit.errors import BadValue
from deltakit.mask import Mask
from deltakit.strategies import Masking, Stack, Whole, depths, masks
from deltakit.tensors.header import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_BLOCK = 1 << 20


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

    `read(name, start, stop)` gives flat entries of the delta. A mask that needs whole rows or whole
    tensors holds one parameter at a time.
    """

    def __init__(
        self,
        plan: MaskPlan,
        task: str,
        infos: Mapping[str, TensorInfo],
        read: Callable[[str, int, int], Tensor],
    ) -> None:
        self._plan, self._task, self._infos, self._read = plan, task, infos, read
        self._masking = plan.masking()
        self._depths = depths(infos)
        self._last: tuple[str, Whole, np.ndarray | None] | None = None

    def keep(self, name: str, start: int, stop: int, delta: Tensor | None = None) -> np.ndarray:
        if self._last is None or self._last[0] != name:
            whole = Whole(self._infos[name].numel, lambda _: self._blocks(name))
            kept = None
            if self._masking.unit != "element":
                kept = self._kept(name, 0, self._read(name, 0, whole.numel), whole)
            self._last = (name, whole, kept)
        _, whole, kept = self._last
        if kept is not None:
            return kept[start:stop]
        entries = self._read(name, start, stop) if delta is None else delta
        return self._kept(name, start, entries, whole)

    def _kept(self, name: str, start: int, entries: Tensor, whole: Whole) -> np.ndarray:
        stack = Stack(
            entries[None],
            tasks=(self._task,),
            name=name,
            seed=self._plan.seed,
            start=start,
            whole=whole,
            shape=self._infos[name].shape,
            depth=self._depths[name],
        )
        kept: np.ndarray = self._masking.apply(stack)[0].ne(0).numpy()
        return kept

    def _blocks(self, name: str) -> Iterator[Tensor]:
        numel = self._infos[name].numel
        for start in range(0, numel, _BLOCK):
            yield self._read(name, start, min(start + _BLOCK, numel))

    def describe(self) -> dict[str, str]:
        told = dataclasses.asdict(self._masking)
        settings = {key: str(value) for key, value in told.items() if key != "rescale"}
        drawn = {"task": self._task, "seed": str(self._plan.seed)} if self._masking.draws else {}
        return {"mask": self._plan.name, **settings, **drawn}
