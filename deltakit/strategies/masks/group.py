"""One draw for a row, a column or an attention head.

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> masked = masks.get("group", {"density": 0.5}).apply(Stack(torch.ones(1, 100, 3)))
>>> sorted(set(masked.sum(dim=2)[0].tolist())), 35 < int(masked.sum()) / 3 < 65
([0.0, 3.0], True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from deltakit.errors import BadValue
from deltakit.rng import Draws
from deltakit.strategies._heads import attention_place
from deltakit.strategies._masking import SMALLEST, Inverse, Masking
from deltakit.strategies._settings import Density, Range
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Group(Masking):
    """Keep or drop whole rows, columns or attention heads, each with probability `density`.

    by: "row" (entries that share the first index: an output neuron), "column" (an input), or
    "head": the rows of q, k and v and the columns of o of one head share a draw, and other
    parameters go by row. heads: how many there are, needed for "head"; with grouped queries the
    number of key-value heads, whose query heads share their draw. A vector has one entry a row.
    rescale: "inverse" divides what is kept by the density; "none".
    """

    density: Density = 0.5
    by: Literal["row", "column", "head"] = "row"
    heads: Annotated[int, Range("[0, inf)")] = 0
    rescale: Inverse = "none"

    streams = True
    formula = "m_i ~ Bernoulli(density), one draw a row, column or head"
    paper = "structured dropping, as arXiv:2408.05200 groups skill units"
    draws = True

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    def check(self) -> None:
        if self.by == "head" and not self.heads:
            raise BadValue(
                "groups by head need the number of heads",
                remedy="set heads to the config's num_key_value_heads or num_attention_heads",
            )

    def apply(self, stack: Stack) -> Tensor:
        import torch

        shape = stack.shape or ()
        length = shape[0] if shape else 1
        row = 1 if len(shape) < 2 else stack.row
        flat = torch.arange(stack.start, stack.start + stack.deltas[0].numel())
        key, column, groups = stack.name, self.by == "column" and len(shape) > 1, 0
        if self.by == "head":
            place = attention_place(stack.name)
            if place is not None and (place.columns or length > 1):
                key, column, groups = f"{place.block} heads", place.columns, self.heads
        at = flat % row if column else flat // max(1, row)
        size = row if column else length
        if groups:
            if size % groups:
                raise BadValue(
                    "the heads do not divide a parameter evenly",
                    where=stack.name,
                    got=f"{size} {'columns' if column else 'rows'}, {groups} heads",
                )
            at = at // (size // groups)
        kept = [
            torch.from_numpy(
                Draws(stack.seed, task, key, f"group {'head' if groups else self.by}").keep(
                    0, max(1, groups or size), self.density
                )
            )[at]
            for task in stack.tasks
        ]
        masked = stack.deltas * torch.stack(kept).reshape(stack.deltas.shape)
        return masked / max(self.density, SMALLEST) if self.rescale == "inverse" else masked
