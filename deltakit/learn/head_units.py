"""Head units: one skill unit is an attention head, its rows of q, k and v and its columns of o."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from deltakit.errors import BadValue
from deltakit.strategies import attention_blocks, head_shape

_NAMED = ("num_key_value_heads", "num_attention_heads")  # of a config; the first that it has
_MODULES = (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out", "output.dense"))


class Heads:
    """The heads of a model's attention blocks, by the parameters that hold them.

    >>> halves = [f"h.0.attn.{p}_proj.weight" for p in "qkvo"]
    >>> heads = Heads({name: (2, 2) for name in halves}, 2)
    >>> each = [(name, torch.tensor([[1.0, 2.0], [3.0, 4.0]])) for name in halves]
    >>> heads.scores(each)["h.0.attn.q_proj.weight"]  # (3 * (1 + 2) + 1 + 3) / 8, ..
    tensor([[1.6250],
            [3.3750]])

    shapes: of the parameters tracked. number: of heads; with grouped queries of key-value heads,
    as a group's query heads belong to it. Raises BadValue for a block that lacks one of q, k, v and
    o, or for no block at all, and ShapeMismatch where the heads do not divide a parameter.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], number: int) -> None:
        self.shapes = {name: head_shape(name, shape, number) for name, shape in shapes.items()}
        self.sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        held = [name for name, shape in self.shapes.items() if shape is not None]
        self.blocks = attention_blocks(held)
        if not self.blocks:
            raise BadValue(
                "no parameter is known to hold attention heads",
                expected="names such as layers.0.self_attn.q_proj.weight",
                got=f"{min(shapes)}, and {len(shapes) - 1} more",
                remedy="take rows instead: units=row",
            )
        for block, names in self.blocks.items():
            modules = [name.removeprefix(f"{block}.").removeprefix("self.") for name in names]
            for called in _MODULES:
                if not any(m.endswith(".weight") and _is(m, called) for m in modules):
                    raise BadValue(
                        f"an attention block has no {called[0]} of its own",
                        where=block,
                        got=", ".join(modules),
                        remedy="track all of q, k, v and o, or take rows instead: units=row",
                    )

    @classmethod
    def of(cls, model: Any, shapes: Mapping[str, tuple[int, ...]], number: int | None) -> Heads:
        """Find the heads of a live model; their number is its config's unless told."""
        config = getattr(getattr(model, "module", model), "config", None)
        known = (getattr(config, name, None) for name in _NAMED)
        found = number if number is not None else next((n for n in known if n is not None), None)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise BadValue(
                "the number of attention heads is not known",
                got=f"{found!r}",
                remedy=f"give heads=, the config's {_NAMED[0]} or {_NAMED[1]}",
            )
        return cls(shapes, found)

    def sums(self, name: str, each: Tensor) -> Tensor:
        """Return what a parameter adds to each of its heads: (heads,) float64; () without heads."""
        shape = self.shapes[name]
        if shape is None:
            return each.sum(dtype=torch.float64)
        side = next((i for i, n in enumerate(shape) if n > 1), 0)
        parts = each.movedim(side, 0).reshape(math.prod(shape), -1)  # (heads, entries)
        return parts.sum(dim=1, dtype=torch.float64)

    def means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each parameter's scores, those of a head the mean over all that belongs to it."""
        found = {
            name: (total / self.sizes[name]).float()
            for name, total in sums.items()
            if self.shapes[name] is None
        }
        for names in self.blocks.values():
            total = torch.stack([sums[name].cpu() for name in names]).sum(dim=0)
            mean = (total * len(total) / sum(self.sizes[name] for name in names)).float()
            found |= {name: mean.reshape(self.shapes[name] or ()) for name in names}
        return found

    def scores(self, each: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Return float32 scores by parameter, of a score for each scalar of every parameter."""
        return self.means({name: self.sums(name, values) for name, values in each})


def _is(module: str, called: tuple[str, ...]) -> bool:
    stem = module.removesuffix(".weight")
    return stem in called or stem.removesuffix("_proj").removesuffix("_lin") in called
