"""Keep n of every m (N:M sparsity; CABS, arXiv:2503.01874).

>>> import torch
>>> from deltakit.strategies import Stack, masks
>>> deltas = torch.tensor([[5.0, -1.0, 2.0, 4.0], [7.0, 3.0, -2.0, 1.0]])
>>> masks.get("nm").apply(Stack(deltas))
tensor([[5., -0., 0., 4.],
        [7., 3., -0., 0.]])
>>> masks.get("nm", {"taken": "excluded"}).apply(Stack(deltas))
tensor([[ 5., -0.,  0.,  4.],
        [ 0.,  3., -2.,  0.]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deltakit.errors import BadValue
from deltakit.strategies._masking import Masking
from deltakit.strategies._settings import Count
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Nm(Masking):
    """Keep the n largest magnitudes of every m consecutive entries of a row.

    taken: "excluded" lets a later task keep only entries that no earlier task kept, so that masks
    never collide and the order of the tasks matters; "shared" lets each choose on its own. A row's
    end may leave a shorter group; of equal magnitudes the first stays.
    """

    n: Count = 2
    m: Count = 4
    taken: Literal["shared", "excluded"] = "shared"

    streams_with = "taken=shared"
    formula = "m_i = the n largest |d_i| of every m"
    paper = "Yang et al. 2025, arXiv:2503.01874"
    unit = "row"

    def check(self) -> None:
        if self.n > self.m:
            raise BadValue("n is more than m", got=f"{self.n} of {self.m}")

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        return self.taken == "excluded"

    @property
    def alone(self) -> bool:
        return self.taken == "shared"

    @property
    def streams(self) -> bool:  # type: ignore[override]
        return self.taken == "shared"

    def apply(self, stack: Stack) -> Tensor:
        return self.take(stack)[0]

    def take(self, stack: Stack, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the masked deltas, (k, *shape), and which entries some task has, bool (*shape).

        `taken` are those that earlier tasks have.
        """
        import torch
        from torch.nn.functional import pad

        rows = stack.rows  # (k, rows, row)
        length = rows.shape[-1]
        magnitude = pad(rows.abs(), (0, -length % self.m), value=-1.0)
        groups = magnitude.unflatten(-1, (-1, self.m))  # (k, rows, groups, m)
        free = torch.ones(groups.shape[1:], dtype=torch.bool)
        if taken is not None:
            padded = pad(taken.reshape(rows.shape[1:]), (0, -length % self.m))
            free = ~padded.unflatten(-1, (-1, self.m))
        masked = torch.empty_like(rows)
        for row, group, out in zip(rows, groups, masked, strict=True):
            open_to = group.where(free, group.new_tensor(-1.0))
            order = open_to.argsort(dim=-1, descending=True, stable=True)
            kept = torch.zeros_like(free).scatter_(-1, order[..., : self.n], True)
            kept &= open_to > 0.0  # a zero is nobody's: it takes no entry from a later task
            if self.taken == "excluded":
                free &= ~kept
            torch.mul(row, kept.flatten(-2)[..., :length], out=out)
        all_taken = ~free.flatten(-2)[..., :length].reshape(stack.deltas.shape[1:])
        return masked.reshape(stack.deltas.shape), all_taken
