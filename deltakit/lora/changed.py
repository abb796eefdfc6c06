"""A parameter that a fine-tune changed: how much, and how low-rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from deltakit.dtypes import working_dtype
from deltakit.errors import NonFinite
from deltakit.lora.adapter import Kind
from deltakit.lora.cut import Size, decompose
from deltakit.lora.factors import Factors
from deltakit.lora.finite import all_finite
from deltakit.lora.flat import BLOCK, flat_blocks
from deltakit.lora.spectrum import Spectrum
from deltakit.tensors.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 64  # of a delta that are compared at a time


@dataclass(frozen=True)
class Changed:
    """A parameter that the fine-tune changed, and its leading singular values."""

    name: str
    kind: Kind | None  # None for what no LoRA can hold: norms, biases, embeddings
    outputs: int
    inputs: tuple[int, ...]
    energy: float  # squared norm of its delta
    squares: tuple[float, ...] = ()  # of the singular values, the largest first
    turned: bool = False
    wanted: Size | None = None  # what the singular values were asked for by
    rank: int = 0  # of the factors found
    left: float = 0.0  # squared norm of what these leave out
    held: Factors | None = field(default=None, compare=False, repr=False)

    @property
    def module(self) -> str:
        return self.name.removesuffix(".weight")

    @property
    def unit(self) -> int:
        """Numbers that one rank takes."""
        return self.outputs + prod(self.inputs)

    @property
    def most(self) -> int:
        return min(self.outputs, prod(self.inputs))

    def kept(self, rank: int) -> float:
        """Return the energy that a rank keeps, of those the survey looked at."""
        return sum(self.squares[:rank])

    def lost(self, rank: int) -> float:
        """Return the energy that a rank leaves out, of those the factors have."""
        return self.left + sum(self.squares[rank : self.rank])

    def dense(self, base: Checkpoint, tuned: Checkpoint) -> Tensor:
        """Return the delta as a matrix (outputs, inputs)."""
        import torch

        shape = base.infos[self.name].shape
        delta = torch.empty(prod(shape), dtype=working_dtype(base.infos[self.name].dtype))
        both = (flat_blocks(source, self.name) for source in (tuned, base))
        for part, theirs, ours in zip(delta.split(BLOCK), *both, strict=True):
            part.copy_(theirs).sub_(ours.to(part.dtype))
        if not all_finite(delta):
            raise NonFinite("the delta holds NaN or infinity", where=self.name)
        delta = delta.reshape(shape[0] if shape else 1, -1)
        return delta.T.contiguous() if self.turned else delta

    def factors(self, rank: int, base: Checkpoint, tuned: Checkpoint) -> Factors:
        """Return the nearest factors of a rank, found again from the inputs if not held."""
        found = self.held
        if found is None:
            assert self.wanted is not None
            found = leading(decompose(self.dense(base, tuned), self.wanted)[0], self.rank)
        return Factors(found.a[:rank], found.b[:, :rank])


def leading(found: Spectrum, rank: int) -> Factors:
    """Return factors that own their memory, of the first `rank` singular values."""
    return Factors(found.v[:rank].clone(), found.u[:, :rank] * found.sigma[:rank])


def left_out(delta: Tensor, factors: Factors) -> float:
    """Return the squared norm of what factors leave of a delta, which is used up."""
    rows = zip(delta.split(ROWS), factors.b.split(ROWS), strict=True)
    return sum(float(part.sub_(b @ factors.a).double().square().sum()) for part, b in rows)
