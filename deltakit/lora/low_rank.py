"""Flat blocks of a low-rank matrix, whose bits do not depend on how it is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TILE = 1 << 15  # entries of the product formed at once, in whole rows


class LowRank:
    """The matrix `left @ right`, seen flat and formed tile by tile.

    >>> import torch
    >>> matrix = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]))
    >>> matrix.add_to(out := torch.zeros(2), 1)
    >>> out
    tensor([4., 6.])

    left (rows, r), right (r, columns). The sum inside a matrix product may be rounded otherwise
    for another shape, so the product is always formed in the same tiles of rows, and a block is
    cut out of them.
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left.contiguous(), right.contiguous()
        self.rows, self.columns = left.shape[0], right.shape[1]
        self.tile = max(1, TILE // max(1, self.columns))  # rows

    def tiles(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the tiles, as (first row, last row + 1), that flat entries start..stop touch."""
        first = start // self.columns // self.tile * self.tile
        last = -(-stop // self.columns)
        return [(row, min(row + self.tile, self.rows)) for row in range(first, last, self.tile)]

    def product(self, first: int, last: int) -> Tensor:
        """Return the rows first..last, one tile: (last - first, columns)."""
        return self.left[first:last] @ self.right

    def entries(self, flat: Tensor) -> Tensor:
        """Return the entries of these flat indices, rounded as the products of any tile may be."""
        right = self.right.T.contiguous()
        return (self.left[flat // self.columns] * right[flat % self.columns]).sum(1)

    def into(self, out: Tensor) -> None:
        """Fill the flat `out` with the whole matrix."""
        import torch

        matrix = out.view(self.rows, self.columns)
        for first, last in self.tiles(0, out.numel()):
            torch.mm(self.left[first:last], self.right, out=matrix[first:last])

    def add_to(self, out: Tensor, start: int) -> None:
        """Add entries start.. to the flat `out`."""
        stop = start + out.numel()
        for first, last in self.tiles(start, stop):
            add_part(out, start, self.product(first, last).reshape(-1), first * self.columns)


def add_part(out: Tensor, start: int, part: Tensor, at: int) -> None:
    """Add to `out`, whose first entry is `start`, the entries of `part` (from `at`) within it."""
    low, high = max(start, at), min(start + out.numel(), at + part.numel())
    if low < high:
        out[low - start : high - start] += part[low - at : high - at]
