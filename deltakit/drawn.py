"""A random mask that is not drawn before someone asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class How(NamedTuple):
    """What a mask is drawn by, in integers alone (`Draws` in native/draws.h).

    Entry i from flat index `start` on is kept where byte start + i of the SplitMix64 stream of
    `key` is below `whole`, and where it is level and the upper 53 bits of word start + i of the
    stream of `level_key` are below `limit`.
    """

    key: int
    level_key: int
    whole: int
    limit: int
    start: int


class Drawn:
    """The mask of `count` entries; the kernels draw it a few entries at a time.

    >>> import numpy as np
    >>> Drawn(How(1, 2, 256, 0, 0), 2, lambda: np.array([True, True])).tensor
    tensor([True, True])
    """

    def __init__(self, how: How, count: int, draw: Callable[[], np.ndarray]) -> None:
        self.how, self._count, self._draw = how, count, draw

    def numel(self) -> int:
        return self._count

    @cached_property
    def tensor(self) -> Tensor:
        """True where kept: bool (count,)."""
        import torch

        return torch.from_numpy(self._draw())
