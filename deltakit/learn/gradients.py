"""What a step's gradients are before they are scored: finite or not, dense or a few rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# From so many rows on a matrix may be an embedding, of which a batch reaches a few rows: then
# looking for them costs less than multiplying zeros. A row is worth it up to this share of rows.
TALL, SHARE = 4096, 0.25


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient: `values` of the whole parameter, or of its `rows` alone.

    >>> found = Gradient.of(torch.tensor([[0.0, 0.0], [0.0, 3.0]]).to_sparse(1))
    >>> found.rows, found.values
    (tensor([1]), tensor([[0., 3.]]))

    `rows` (m,) are ascending and every other row is exactly zero; None says that `values` has the
    parameter's shape.
    """

    values: Tensor
    rows: Tensor | None = None

    @classmethod
    def of(cls, gradient: Tensor) -> Gradient:
        """Look at a gradient as autograd left it: sparse, or dense on whatever device."""
        if gradient.is_sparse:
            if gradient.sparse_dim() > 1:
                return cls(gradient.to_dense())
            merged = gradient.coalesce()
            return cls(merged.values(), merged.indices()[0])
        # On an accelerator the zeros cost less than waiting for where they are.
        if gradient.device.type != "cpu" or gradient.ndim != 2 or len(gradient) < TALL:
            return cls(gradient)
        # A byte that is not zero: exact where a norm would underflow, and in one fast pass.
        rows = gradient.contiguous().view(torch.uint8).amax(dim=1).nonzero()[:, 0]
        if len(rows) > SHARE * len(gradient):
            return cls(gradient)
        return cls(gradient[rows], rows)


def finite(gradients: Iterable[Gradient]) -> bool:
    """Return whether no entry is NaN or infinite, with one sync a device and no mask.

    >>> finite([Gradient(torch.tensor([1.0, float("nan")]))])
    False
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        by_device.setdefault(gradient.values.device, []).append(gradient.values)
    return all(
        # A norm is infinite or NaN if an entry is. If it only overflowed, the entries decide.
        _finite(torch._foreach_norm(values))
        or _finite(extreme for value in values if value.numel() for extreme in value.aminmax())
        for values in by_device.values()
    )


def _finite(scalars: Iterable[Tensor]) -> bool:
    return bool(torch.cat([scalar.reshape(1) for scalar in scalars]).isfinite().all())
