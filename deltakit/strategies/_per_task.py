"""A mask whose settings are not the same for all tasks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltakit.errors import BadValue
from deltakit.strategies._masking import Masking
from deltakit.strategies._settings import Looks, Unit, coarsest, farthest
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PerTask(Masking):
    """One kind of mask: `own` for every task but those of `each`, which have one of theirs.

    >>> import torch
    >>> from deltakit.strategies import masks
    >>> half, whole = (masks.get("magnitude", {"density": d}) for d in (0.5, 1))
    >>> stack = Stack(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), tasks=("a", "b"))
    >>> PerTask(half, (("b", whole),)).apply(stack)
    tensor([[0., 2.],
            [1., 2.]])
    """

    own: Masking
    each: tuple[tuple[str, Masking], ...]

    def __post_init__(self) -> None:
        """All are masks, which checked their settings when they were made."""
        if any(mask.ordered for mask in self.all):
            raise BadValue(
                "of tasks that exclude each other none has settings of its own: two would keep the"
                " same entry",
                got="taken=excluded",
                remedy="the same settings for all tasks, or taken=shared",
            )

    @property
    def all(self) -> list[Masking]:
        return [self.own, *(mask for _, mask in self.each)]

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        return coarsest(mask.unit for mask in self.all)

    @property
    def looks(self) -> Looks:
        return farthest(mask.looks for mask in self.all)

    @property
    def needs_importance(self) -> bool:  # type: ignore[override]
        return any(mask.needs_importance for mask in self.all)

    @property
    def streams(self) -> bool:  # type: ignore[override]
        return all(mask.streams for mask in self.all)

    @property
    def draws_entries(self) -> bool:  # type: ignore[override]
        return any(mask.draws_entries for mask in self.all)

    @property
    def rescales_draws(self) -> bool:
        return any(mask.rescales_draws for mask in self.all)

    @property
    def said(self) -> dict[str, Any]:
        """The settings, and what single tasks have in their place below the tasks' names."""
        own = dataclasses.asdict(self.own)
        each = {
            task: {
                key: value for key, value in dataclasses.asdict(mask).items() if value != own[key]
            }
            for task, mask in self.each
        }
        return {**own, "tasks": each}

    def apply(self, stack: Stack) -> Tensor:
        each = dict(self.each)
        masks = [each.get(task, self.own) for task in stack.tasks]
        masked = stack.deltas.clone()
        for mask in dict.fromkeys(masks):
            experts = [expert for expert, its in enumerate(masks) if its == mask]
            masked[experts] = mask.apply(stack)[experts]
        return masked
