"""The importance recurrence: pure in-place tensor maths (KlF, arXiv 2408.05200)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

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


def update_(
    state: Sequence[Tensor], spread: Sequence[Tensor], s: Sequence[Tensor], a1: float, a2: float
) -> None:
    """Advance I (`state`) and U (`spread`) by one sensitivity; `s` is used up as scratch.

    >>> i, u = torch.zeros(1), torch.zeros(1)
    >>> update_([i], [u], [torch.tensor([0.2])], 0.85, 0.85)
    >>> i.item(), u.item()  # doctest: +ELLIPSIS
    (0.03..., 0.0255...)

    I = a1*I + (1-a1)*s, then U = a2*U + (1-a2)*|s - I| with the I just updated; no bias
    correction. The three are lists of float32 tensors whose shapes agree.
    """
    torch._foreach_lerp_(state, s, 1 - a1)
    torch._foreach_sub_(s, state)
    torch._foreach_abs_(s)
    torch._foreach_lerp_(spread, s, 1 - a2)


def decay_(state: Tensor, spread: Tensor, a1: float, a2: float) -> None:
    """Advance I and U by a sensitivity of exactly zero: where there is no gradient.

    The same bits as `update_` with s = 0, for half the memory traffic.
    """
    zero = torch.zeros((), device=state.device)
    size = _block(state.device)
    for i, u in zip(state.split(size), spread.split(size), strict=True):
        i.lerp_(zero, 1 - a1)
        u.lerp_(i, 1 - a2)  # |0 - I| = I, because I is never negative


class Rule(NamedTuple):
    """Which sensitivity is followed, and how much of I and U a step keeps."""

    score: str
    a1: float
    a2: float


class Part(NamedTuple):
    """I, U, weight and gradient of some scalars: four flat tensors of one length."""

    state: Tensor
    spread: Tensor
    weight: Tensor
    gradient: Tensor


class Scratch:
    """Two reusable float32 blocks on one device, in which a step's products are formed."""

    def __init__(self, device: torch.device, most: int) -> None:
        size = min(3 * _block(device) // 2, most)
        self.product = torch.empty(size, device=device)
        self.gradient = torch.empty(size, device=device)


def step_(parts: Iterable[Part], scratch: Scratch, rule: Rule) -> None:
    """Advance I and U of all parts by their weights and gradients, block by block.

    State and spread are float32, on the scratch's device or another; weights and gradients are of
    any float dtype, and are only read. Half precision is widened before it is multiplied.
    """
    for batch in _batches(parts, _block(scratch.product.device)):
        state, spread, weight, gradient = zip(*batch, strict=True)
        s = sensitivity_(_products(weight, gradient, scratch), rule.score)
        if state[0].device != s.device:
            s = s.to(state[0].device)
        update_(state, spread, s.split([part.numel() for part in state]), rule.a1, rule.a2)


def step_rows_(
    state: Tensor,
    spread: Tensor,
    weight: Tensor,
    gradient: Tensor,
    rows: Tensor,
    scratch: Scratch,
    rule: Rule,
) -> None:
    """Advance a parameter of which only some rows have a gradient: all others decay.

    `gradient` (m, ...) holds the rows (m,) of `weight` (n, ...) that are not zero; state and
    spread are flat. The same bits as `step_` with the zeros written out, for finite weights.
    """
    at = rows.to(state.device)
    matrices = state.view(weight.shape), spread.view(weight.shape)  # (n, ...)
    i, u = (matrix[at] for matrix in matrices)  # (m, ...)
    decay_(state, spread, rule.a1, rule.a2)
    if len(rows):
        flat = (tensor.reshape(-1) for tensor in (i, u, weight[rows], gradient))
        step_([Part(*flat)], scratch, rule)
    for matrix, reached in zip(matrices, (i, u), strict=True):
        matrix.index_copy_(0, at, reached)


def _products(weights: Sequence[Tensor], gradients: Sequence[Tensor], scratch: Scratch) -> Tensor:
    lengths = [weight.numel() for weight in weights]
    p = scratch.product[: sum(lengths)]
    if len(lengths) == 1 and weights[0].dtype == gradients[0].dtype == p.dtype:
        return torch.mul(weights[0], gradients[0], out=p)
    g = scratch.gradient[: sum(lengths)]
    torch._foreach_copy_(p.split(lengths), weights)
    torch._foreach_copy_(g.split(lengths), gradients)
    return p.mul_(g)


def _batches(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Cut large parts and put small ones together, about `size` scalars at a time.

    No batch has more than half of `size` over it, nor a small rest: a call has its price.
    """
    small: list[Part] = []
    room = size
    for part in parts:
        length = part.weight.numel()
        if length < size // 8:
            if length > room:
                yield small
                small, room = [], size
            small.append(part)
            room -= length
            continue
        even = -(-length // max(1, round(length / size)))
        for block in zip(*(tensor.split(even) for tensor in part), strict=True):
            yield [Part(*block)]
    if small:
        yield small


def _block(device: torch.device) -> int:
    return CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK


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
