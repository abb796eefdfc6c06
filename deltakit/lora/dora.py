"""DoRA (arXiv:2402.09353): each output of the adapted weight is brought to a trained norm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from deltakit.lora.low_rank import LowRank, add_part

if TYPE_CHECKING:
    from torch import Tensor

Rows = Callable[[int, int], "Tensor"]  # rows first..last of the base's weight, flat


class Dora:
    """The weight m (W + D) / norm(W + D), made tile by tile like its low-rank D.

    `turned` tells that outputs are columns of the stored weight. The norms of all outputs are
    found once, in a pass over the base's weight.
    """

    def __init__(self, product: LowRank, magnitude: Tensor, *, turned: bool) -> None:
        self._product, self._magnitude, self._turned = product, magnitude, turned
        self._factor: Tensor | None = None
        self._lock = threading.Lock()

    def add_to(self, out: Tensor, start: int, rows: Rows) -> None:
        """Add entries start.. of the adapted weight to the flat `out`."""
        factor = self._factors(rows)
        product = self._product
        for first, last in product.tiles(start, start + out.numel()):
            tile = self._adapted(first, last, rows)
            tile *= factor if self._turned else factor[first:last, None]
            add_part(out, start, tile.reshape(-1), first * product.columns)

    def _adapted(self, first: int, last: int, rows: Rows) -> Tensor:
        tile = self._product.product(first, last)
        tile += rows(first, last).reshape(tile.shape)
        return tile

    def _factors(self, rows: Rows) -> Tensor:
        """Return m / norm(W + D) of every output, (d_out,)."""
        import torch

        with self._lock:
            if self._factor is None:
                product = self._product
                squares = []
                for first, last in product.tiles(0, product.rows * product.columns):
                    tile = self._adapted(first, last, rows).double().square_()
                    squares.append(tile.sum(0) if self._turned else tile.sum(1))
                total = torch.stack(squares).sum(0) if self._turned else torch.cat(squares)
                self._factor = self._magnitude / total.sqrt().to(self._magnitude.dtype)
            return self._factor
