"""Importance of each entry, from maps whose units are tensors, rows or entries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deltakit.errors import BadValue, ShapeMismatch
from deltakit.strategies._stack import Stack

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def element_scores(stack: Stack) -> Tensor:
    """Return what `entry_scores` does, in the deltas' dtype."""
    return entry_scores(stack, stack.deltas.dtype)


def counted(scores: Tensor) -> Tensor:
    """Return scores with 0 for those whose products with deltas would lose their precision.

    >>> import torch
    >>> counted(torch.tensor([1.0, 1e-40]))
    tensor([1., 0.])

    In float32 those below 2^-100.
    """
    import torch

    least = torch.finfo(scores.dtype).tiny * 2.0**26
    return scores.masked_fill(scores < least, 0.0)


def entry_scores(stack: Stack, dtype: torch.dtype) -> Tensor:
    """Return the importance of each entry of each expert: (k, *shape).

    A score for the tensor holds for all of it, one a row for the row's entries; (2, 1) and (1, 2)
    are scores of the halves of a matrix's rows and columns, and so on. Raises BadValue
    where there is no importance, ShapeMismatch for scores of another shape.
    """
    import torch

    if not stack.scores:
        raise BadValue(
            "there is no importance of this parameter",
            where=stack.name or None,
            remedy="capture it on the fine-tuned models: deltakit importance TASK",
        )
    count = stack.deltas[0].numel()
    shape = stack.shape or ()
    rows = []
    for task, scores in zip(stack.tasks, stack.scores, strict=True):
        if scores.numel() == 1:
            each = scores.reshape(1).expand(count)
        elif scores.numel() == math.prod(shape):
            each = scores.reshape(-1)[stack.start : stack.start + count]
        elif shape and scores.shape == shape[:1]:
            at = torch.arange(stack.start, stack.start + count) // max(1, stack.row)
            each = scores[at]
        elif _divides(tuple(scores.shape), shape):
            at = torch.arange(stack.start, stack.start + count)
            each = scores.reshape(-1)[_block_of(at, tuple(scores.shape), shape)]
        else:
            raise ShapeMismatch(
                f"the importance of task {task!r} has another shape",
                where=stack.name,
                expected=f"[], {list(shape[:1])} or {list(shape)}",
                got=f"{list(scores.shape)}",
            )
        rows.append(each.to(dtype))
    return torch.stack(rows).reshape(stack.deltas.shape)


def _divides(blocks: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if len(blocks) != len(shape):
        return False
    return all(n > 0 and size % n == 0 for n, size in zip(blocks, shape, strict=True))


def _block_of(at: Tensor, blocks: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Return the flat index of the block that each flat index of a parameter lies in."""
    found, stride = at * 0, 1
    for n, size in zip(reversed(blocks), reversed(shape), strict=True):
        found += at % size // (size // n) * stride
        at, stride = at // size, stride * n
    return found
