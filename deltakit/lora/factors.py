"""A low-rank matrix B A by its factors, and the two ways KlF fuses two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from deltakit.errors import ShapeMismatch

if TYPE_CHECKING:
    from torch import Tensor


class Factors(NamedTuple):
    """The matrix B A: a (r, d_in), b (d_out, r)."""

    a: Tensor
    b: Tensor


def fuse_factors(before: Factors, now: Factors, share: Tensor) -> Factors:
    """Return rows of A and columns of B mixed with one pair of shares a rank, as KlF does.

    >>> import torch
    >>> one, three = torch.ones(1, 1), torch.full((1, 1), 3.0)
    >>> fused = fuse_factors(Factors(one, one), Factors(three, three), torch.tensor([0.5]))
    >>> (fused.b @ fused.a).item()
    4.0

    share (r,) is the new task's part of each rank, the old one gets the rest. Fusing factors is
    not fusing products: the result has cross terms (`fuse_products` has none).
    """
    _check_alike(before, now)
    kept = 1.0 - share
    a = before.a * kept[:, None] + now.a * share[:, None]  # (r, d_in)
    return Factors(a, before.b * kept + now.b * share)


def fuse_products(before: Factors, now: Factors, share: Tensor) -> Factors:
    """Return the same fusion of the rank-1 products themselves, of at most the rank of one.

    >>> import torch
    >>> one, three = torch.ones(1, 1), torch.full((1, 1), 3.0)
    >>> fused = fuse_products(Factors(one, one), Factors(three, three), torch.tensor([0.5]))
    >>> round((fused.b @ fused.a).item(), 6)
    5.0

    sum_i (1 - share_i) b_i a_i + share_i b'_i a'_i is exact in 2 r ranks, and the nearest matrix
    of rank r is returned.
    """
    import torch

    _check_alike(before, now)
    a = torch.cat([before.a, now.a])  # (2r, d_in)
    b = torch.cat([before.b * (1.0 - share), now.b * share], dim=1)  # (d_out, 2r)
    return nearest_of_rank(Factors(a, b), len(before.a))


def nearest_of_rank(factors: Factors, rank: int) -> Factors:
    """Return the best approximation of B A of at most `rank`, without forming the product."""
    return shortened(factors, rank)[0]


def shortened(factors: Factors, rank: int) -> tuple[Factors, Tensor]:
    """Return the nearest factors of at most `rank`, and all singular values of B A.

    Rows of the new A are orthonormal, right singular vectors, and the new B is B A A^T. QR of both
    factors and an SVD of the small core: (d_out + d_in) R^2 operations for R ranks.
    """
    import torch

    basis, core_right = torch.linalg.qr(factors.a.T)  # (d_in, n), (n, R)
    core_left = torch.linalg.qr(factors.b, mode="r").R  # (m, R)
    _, sigma, v = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    b = factors.b @ (core_right.T @ v[:rank].T)  # (d_out, rank)
    return Factors(v[:rank] @ basis.T, b), sigma


def singular_values(factors: Factors) -> Tensor:
    """Return the singular values of B A, from R of both factors' QR: (m,)."""
    import torch

    left, right = (torch.linalg.qr(f, mode="r").R for f in (factors.b, factors.a.T))
    return torch.linalg.svdvals(left @ right.T)


def stacked(products: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return sum_i w_i B_i A_i exactly, as factors of the sum of the ranks.

    >>> import torch
    >>> one = Factors(torch.ones(1, 2), torch.ones(2, 1))
    >>> found = stacked([one, one], [1.0, 0.5])
    >>> found.a.shape, (found.b @ found.a)[0, 0].item()
    (torch.Size([2, 2]), 1.5)
    """
    import torch

    a = torch.cat([f.a for f in products])  # (R, d_in)
    b = torch.cat([f.b * w for f, w in zip(products, weights, strict=True)], dim=1)
    return Factors(a, b)


def squared_norms(products: Sequence[Factors], weights: Sequence[float]) -> list[float]:
    """Return |sum_{j <= i} w_j B_j A_j|^2 for every i: of each first part of a weighted sum.

    >>> import torch
    >>> one = Factors(torch.ones(1, 2), torch.ones(2, 1))
    >>> squared_norms([one, one], [1.0, -1.0])
    [4.0, 0.0]

    From two small Gram matrices in float64, in which equal terms of opposite sign cancel.
    """
    both = stacked([Factors(f.a.double(), f.b.double()) for f in products], weights)
    gram = (both.b.T @ both.b) * (both.a @ both.a.T)  # (R, R)
    ends, found = 0, []
    for product in products:
        ends += len(product.a)
        found.append(max(0.0, float(gram[:ends, :ends].sum())))
    return found


def _check_alike(before: Factors, now: Factors) -> None:
    if before.a.shape != now.a.shape or before.b.shape != now.b.shape:
        raise ShapeMismatch(
            "factors of another shape are not fused rank by rank",
            expected=f"A {list(before.a.shape)}, B {list(before.b.shape)}",
            got=f"A {list(now.a.shape)}, B {list(now.b.shape)}",
        )
