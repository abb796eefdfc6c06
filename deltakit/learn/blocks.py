"""One step of the importance recurrence over many parameters, a block of scalars at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from deltakit.learn.scores import Rule, Tensors, block_size, sensitivity_, update_


class Part(NamedTuple):
    """I, U, weight and gradient of some scalars: four flat tensors of one length."""

    state: Tensor
    spread: Tensor
    weight: Tensor
    gradient: Tensor


class Scratch:
    """Two reusable float32 blocks on one device, in which a step's products are formed."""

    def __init__(self, device: torch.device, most: int) -> None:
        size = min(3 * block_size(device) // 2, most)
        self.product = torch.empty(size, device=device)
        self.gradient = torch.empty(size, device=device)


def step_(parts: Iterable[Part], scratch: Scratch, rule: Rule) -> None:
    """Advance I and U of all parts by their weights and gradients, block by block.

    State and spread are float32, on the scratch's device or another; weights and gradients are of
    any float dtype, and are only read. Half precision is widened before it is multiplied.
    """
    for batch in _batches(parts, block_size(scratch.product.device)):
        state, spread, weight, gradient = zip(*batch, strict=True)
        s = sensitivity_(_products(weight, gradient, scratch), rule.score)
        if state[0].device != s.device:
            s = s.to(state[0].device)
        update_(state, spread, s.split([part.numel() for part in state]), rule.a1, rule.a2)


def _products(weights: Tensors, gradients: Tensors, scratch: Scratch) -> Tensor:
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
