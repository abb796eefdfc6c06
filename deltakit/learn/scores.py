"""The importance recurrence: pure in-place tensor maths (KlF, arXiv 2408.05200)."""

from __future__ import annotations

import torch
from torch import Tensor

from deltakit.errors import BadValue, nearest

SCORES = ("first", "second", "mixed")

# One block of a parameter at a time. On a CPU the block and its scratch stay in cache (three times
# the speed of whole tensors); on an accelerator launches cost more than memory traffic.
CPU_BLOCK, DEVICE_BLOCK = 1 << 17, 1 << 24


def check_score(score: str) -> str:
    """Return `score` when it names one of `SCORES`, else raise `BadValue`."""
    if score in SCORES:
        return score
    close = nearest(score, SCORES)
    raise BadValue(
        "unknown importance score",
        expected=", ".join(SCORES),
        got=score,
        remedy=f'did you mean "{close}"?' if close else None,
    )


def check_decay(name: str, value: float) -> float:
    """Return `value` when it is a decay in [0, 1), else raise `BadValue`."""
    if 0.0 <= value < 1.0:
        return value
    raise BadValue(
        f"{name} is outside [0, 1)",
        expected="a fraction of the old state to keep, such as 0.85",
        got=str(value),
    )


def sensitivity_(product: Tensor, score: str) -> Tensor:
    """Turn p = weight * gradient into the sensitivity s, in place, and return it.

    >>> sensitivity_(torch.tensor([-0.2, 0.6]), "mixed")
    tensor([0.2200, 0.4200])

    `first` is |p|, `second` p*p, `mixed` |p - p*p/2| (the Hessian diagonal replaced by g*g).
    Any shape, any float dtype.
    """
    if score == "first":
        return product.abs_()
    if score == "second":
        return product.square_()
    return product.addcmul_(product, product, value=-0.5).abs_()


def update_(state: Tensor, spread: Tensor, s: Tensor, a1: float, a2: float) -> None:
    """Advance I (`state`) and U (`spread`) by one sensitivity; `s` is used up as scratch.

    >>> i, u = torch.zeros(1), torch.zeros(1)
    >>> update_(i, u, torch.tensor([0.2]), 0.85, 0.85)
    >>> i.item(), u.item()  # doctest: +ELLIPSIS
    (0.03..., 0.0255...)

    I = a1*I + (1-a1)*s, then U = a2*U + (1-a2)*|s - I| with the I just updated; no bias
    correction. All three have one shape and are float32.
    """
    state.lerp_(s, 1 - a1)
    spread.lerp_(s.sub_(state).abs_(), 1 - a2)


def decay_(state: Tensor, spread: Tensor, a1: float, a2: float) -> None:
    """Advance I and U by a sensitivity of exactly zero: a parameter without a gradient."""
    state.mul_(a1)
    spread.lerp_(state, 1 - a2)  # |0 - I| = I, because I is never negative


class Scratch:
    """Two reusable float32 blocks on one device, in which a step's products are formed."""

    def __init__(self, device: torch.device, most: int) -> None:
        size = min(CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK, most)
        self.product = torch.empty(size, device=device)
        self.gradient = torch.empty(size, device=device)


def step_(
    state: Tensor,
    spread: Tensor,
    weight: Tensor,
    gradient: Tensor,
    scratch: Scratch,
    *,
    score: str,
    a1: float,
    a2: float,
) -> None:
    """Advance one parameter's I and U by one weight and gradient, block by block.

    `state` and `spread` are flat float32 (n,); `weight` and `gradient` have n entries in any
    shape and float dtype, and are only read. Half precision is widened before it is multiplied.
    """
    weights, gradients = weight.reshape(-1), gradient.reshape(-1)  # (n,)
    size = scratch.product.numel()
    for start in range(0, weights.numel(), size):
        block = slice(start, start + size)
        w, g = weights[block], gradients[block]
        p = scratch.product[: w.numel()]
        if w.dtype == g.dtype == p.dtype:
            torch.mul(w, g, out=p)
        else:
            p.copy_(w).mul_(scratch.gradient[: w.numel()].copy_(g))
        sensitivity_(p, score)
        update_(state[block], spread[block], p, a1, a2)


def unit_score(state: Tensor, spread: Tensor) -> float:
    """Return the mean of I*U over all scalars of a unit, accumulated in float64.

    >>> unit_score(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]))
    2.5
    """
    total = 0.0
    for start in range(0, state.numel(), DEVICE_BLOCK):
        block = slice(start, start + DEVICE_BLOCK)
        total += float(torch.dot(state[block].double(), spread[block].double()))
    return total / state.numel()


def sum_of_squares(gradient: Tensor) -> float:
    """Return the sum of squared entries: float32 within a block, float64 over the blocks.

    >>> sum_of_squares(torch.tensor([[3.0], [4.0]]))
    25.0
    """
    blocks = gradient.reshape(-1).float().split(CPU_BLOCK)
    return float(torch.stack([torch.dot(block, block) for block in blocks]).double().sum())
