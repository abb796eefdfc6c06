"""Matrix factorisations as strategies need them: thin, finite, and zero where nothing is.

A thin SVD of an m by n matrix holds (m + n) min(m, n) numbers beside the matrix; nothing here makes
a matrix larger than the experts side by side. Factors are computed in the precision of the deltas:
of float32 ones singular values are exact to about 1e-6 of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import added_to_mean, mean_of

if TYPE_CHECKING:
    from torch import Tensor


def matrices(stack: Stack, weights: Sequence[float] | None = None) -> Tensor | None:
    """Return the deltas, times weights, as finite matrices (k, rows, cols), or None.

    None for a parameter that is no matrix, which the SVD strategies average, and for deltas with
    NaN or infinity, which a sum passes on to where they are refused.
    """
    import torch

    if len(stack.shape or ()) != 2 or not stack.deltas.numel():
        return None
    found = stack.deltas.reshape(len(stack.deltas), *(stack.shape or ()))
    if weights is not None:
        found = found * torch.tensor(weights, dtype=found.dtype).reshape(-1, 1, 1)
    return found if bool(found.isfinite().all()) else None


def plain_mean(stack: Stack) -> Tensor:
    """Return the weighted average, which is what SVD strategies make of vectors."""
    return mean_of(added_to_mean(None, stack.deltas, stack.weights), stack.weights)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin factors u (m, r), s (r), vh (r, n) of a matrix, r = min(m, n).

    >>> import torch
    >>> u, s, vh = svd(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    >>> s
    tensor([4., 3.])
    """
    import torch

    largest = float(matrix.abs().max())
    scale = 2.0 ** -int(torch.frexp(torch.tensor(largest))[1]) if largest > 0.0 else 1.0
    u, s, vh = torch.linalg.svd(matrix * scale, full_matrices=False)  # squares stay in range
    return u, s / scale, vh


def rank(s: Tensor, shape: Sequence[int]) -> int:
    """Return how many singular values are above rounding error."""
    import torch

    return int((s > s[0] * max(shape) * torch.finfo(s.dtype).eps).sum()) if s[0] > 0.0 else 0


def polar(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal columns or rows, on the range of this one.

    Directions whose singular value is rounding error stay 0, where LAPACK would choose any.
    """
    u, s, vh = svd(matrix)
    r = rank(s, matrix.shape)
    return u[:, :r] @ vh[:r]
