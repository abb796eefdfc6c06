"""Matrix factorisations as strategies need them: thin, finite, and zero where nothing is.

A thin SVD of an m by n matrix holds (m + n) min(m, n) numbers beside the matrix; nothing here makes
a matrix larger than the experts side by side. Factors are computed in the precision of the deltas:
of float32 ones singular values are exact to about 1e-6 of the largest, singular vectors orthonormal
to 1e-5 where their values are no rounding error. Matrices of GRAM_FROM rows and columns or more are
decomposed by way of Gram matrices, in about half of the time of LAPACK's SVD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit.strategies._stack import Stack
from deltakit.strategies._streaming import added_to_mean, mean_of

if TYPE_CHECKING:
    from torch import Tensor

GRAM_FROM = 512
SHARE = 0.1  # of the largest singular value: eigenvectors of the Gram matrix are exact to 1e-5


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


def svd(matrix: Tensor, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin factors u (m, r), s (r), vh (r, n) of a matrix, r = min(m, n).

    >>> import torch
    >>> u, s, vh = svd(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    >>> s
    tensor([4., 3.])

    most: only that many of the largest singular values, with their vectors. A matrix of GRAM_FROM
    rows and columns or more has zeros for values, and their vectors, that are rounding error.
    """
    import torch

    largest = float(matrix.abs().max())
    scale = 2.0 ** -int(torch.frexp(torch.tensor(largest))[1]) if largest > 0.0 else 1.0
    matrix = matrix * scale  # squares stay in range
    most = min(matrix.shape) if most is None else most
    if largest == 0.0 or min(matrix.shape) < GRAM_FROM:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    elif matrix.shape[0] < matrix.shape[1]:
        v, s, uh = _svd_by_gram(matrix.T, most)
        u, vh = uh.T, v.T
    else:
        u, s, vh = _svd_by_gram(matrix, most)
    return u[:, :most], s[:most] / scale, vh[:most]


def _svd_by_gram(matrix: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    from torch.nn.functional import pad

    u, s, vh = _deflated(matrix, most)
    order = s.argsort(descending=True, stable=True)[:most]  # the steps overlap by rounding
    s = s[order]
    live = s > _rounding(matrix, s)
    order, s, lacking = order[live], s[live], most - int(live.sum())
    return pad(u[:, order], (0, lacking)), pad(s, (0, lacking)), pad(vh[order], (0, 0, 0, lacking))


def _deflated(matrix: Tensor, most: int, floor: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return `most` factors of a matrix (m, n), m >= n, or as many as are above the floor.

    Eigenvectors of the Gram matrix cost a third of an SVD, but squaring loses small singular
    values. So only those above SHARE of the largest are taken, and then what they leave of the
    matrix is decomposed: a handful of times until that is rounding error.
    """
    import torch

    if matrix.shape[1] < GRAM_FROM:
        return torch.linalg.svd(matrix, full_matrices=False)
    squares, v = torch.linalg.eigh(matrix.T @ matrix)
    squares, v = squares.flip(0), v.flip(1)
    good = max(1, int((squares > SHARE**2 * squares[0]).sum()))
    u = matrix @ v[:, :good]
    s = torch.linalg.vector_norm(u, dim=0)
    u /= s
    vh = v[:, :good].T
    floor = floor or _rounding(matrix, s)
    if good < min(most, matrix.shape[1]):
        left = matrix @ v[:, good:]
        left -= u @ (u.T @ left)
        if float(left.norm()) > floor:
            own_u, own_s, own_vh = _deflated(left, most - good, floor)
            u, s = torch.cat([u, own_u], dim=1), torch.cat([s, own_s])
            vh = torch.cat([vh, own_vh @ v[:, good:].T])
    return u, s, vh


def _rounding(matrix: Tensor, s: Tensor) -> float:
    import torch

    return float(s[0]) * math.sqrt(max(matrix.shape)) * torch.finfo(s.dtype).eps


def basis(u: Tensor, s: Tensor, shape: Sequence[int]) -> Tensor:
    """Return orthonormal columns that hold all of a matrix but rounding error: (m, r).

    u (m, ..) and s are its factors, shape its own. Vectors of small values lean on those of large
    ones by as much as these are larger, so all are made orthogonal again.
    """
    import torch

    # Values of zero come out of LAPACK as up to 1.4 sqrt(n) times the precision.
    floor = 2.0 * math.sqrt(max(shape)) * torch.finfo(s.dtype).eps
    found: Tensor = torch.linalg.qr(u[:, s > s[0] * floor])[0]
    return found


def rank(s: Tensor, shape: Sequence[int]) -> int:
    """Return how many singular values are far enough above rounding error to be made equal."""
    import torch

    return int((s > s[0] * max(shape) * torch.finfo(s.dtype).eps).sum()) if s[0] > 0.0 else 0


def polar(matrix: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal columns or rows, on the range of this one.

    Directions whose singular value is rounding error stay 0, where LAPACK would choose any.
    """
    u, s, vh = svd(matrix)
    r = rank(s, matrix.shape)
    return u[:, :r] @ vh[:r]
