"""One owner an entry: masks that never collide (a reading of SoTU, arXiv:2411.02813).

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> masked = masks.get("disjoint").apply(Stack(torch.ones(3, 1000)))
>>> bool((masked.sum(dim=0) == 1).all()), 280 < int(masked[0].sum()) < 390
(True, True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.rng import Draws
from deltakit.strategies._masking import Inverse, Masking
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Disjoint(Masking):
    """Give each entry to one task, drawn evenly: density 1/T each, no collision, no gap.

    Each task draws a number for each entry, and the smallest owns it. So the order of the tasks
    does not matter, and a task that is added takes each entry with probability 1/t and leaves the
    others to their owners. rescale: "none", or "inverse", which multiplies by T.
    """

    rescale: Inverse = "none"

    formula = "m_i = [u = i], u drawn evenly from the tasks for each entry"
    paper = "arXiv:2411.02813"
    draws = True

    @property
    def rescales_draws(self) -> bool:
        return self.rescale != "none"

    @property
    def alone(self) -> bool:
        return False

    def apply(self, stack: Stack) -> Tensor:
        import numpy as np
        import torch

        count, stop = stack.deltas[0].numel(), stack.start + stack.deltas[0].numel()
        owner = np.zeros(count, dtype=np.int64)
        smallest = np.full(count, np.iinfo(np.uint64).max)
        for expert in sorted(range(len(stack.tasks)), key=lambda i: stack.tasks[i]):
            draws = Draws(stack.seed, stack.tasks[expert], stack.name, "owner")
            drawn = draws.numbers(stack.start, stop)
            owner[drawn < smallest] = expert
            smallest = np.minimum(smallest, drawn)
        shape = stack.deltas.shape[1:]
        owners = torch.from_numpy(owner).reshape(shape)
        factor = float(len(stack.deltas)) if self.rescale == "inverse" else 1.0
        return torch.stack([d * (owners == i) * factor for i, d in enumerate(stack.deltas)])
