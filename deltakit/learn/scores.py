"""The importance recurrence: pure in-place tensor maths (KlF, arXiv 2408.05200)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deltakit.errors import BadValue, nearest

Tensors = tuple[Tensor, ...] | list[Tensor]  # what torch's _foreach functions take

SCORES = ("first", "second", "mixed")
DECAY = 0.85  # a1 and a2 of the reference: what a window of 1 / (1 - .85), six or seven steps, has

# One block of a parameter at a time. On a CPU the block and its scratch stay in cache (three times
# the speed of whole tensors); on an accelerator launches cost more than memory traffic.
CPU_BLOCK, DEVICE_BLOCK = 1 << 17, 1 << 24

# Such an entry adds nothing to a score. Left alone it would decay into the subnormal numbers and,
# rounded up again at each step, stay there: processors are twenty times as slow with them.
LEAST, FLUSH_EVERY = 2.0**-100, 32  # scored steps


class Rule(NamedTuple):
    """Which sensitivity is followed, and how much of I and U a step keeps."""

    score: str
    a1: float
    a2: float


def block_size(device: torch.device) -> int:
    """Return how many scalars are worked on at a time."""
    return CPU_BLOCK if device.type == "cpu" else DEVICE_BLOCK


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


def decays(a1: float, a2: float, window: int | None) -> tuple[float, float]:
    """Return a1 and a2, those of a window of scored steps where one is given.

    >>> decays(0.85, 0.85, None), decays(0.85, 0.85, 4)
    ((0.85, 0.85), (0.75, 0.75))

    A step weighs 1 / window in I and in U when it comes. Raises `BadValue` for a window that is no
    whole number above 1 (of one step alone U is 0), or beside other decays.
    """
    if window is None:
        return check_decay("a1", a1), check_decay("a2", a2)
    if (a1, a2) != (DECAY, DECAY):
        raise BadValue(
            "a window sets a1 and a2",
            got=f"window={window}, a1={a1}, a2={a2}",
            remedy="give a window, or a1 and a2",
        )
    if not isinstance(window, int) or isinstance(window, bool) or window < 2:
        raise BadValue(
            "a window is no whole number above 1",
            expected="a number of scored steps, such as 100",
            got=str(window),
        )
    return 1.0 - 1.0 / window, 1.0 - 1.0 / window


def window_of(window: int | str | None, steps: int, every: int = 1) -> int | None:
    """Return the scored steps of a window; "all" are those of a run of `steps`.

    >>> window_of("all", 250, every=4), window_of(7, 250), window_of(None, 250)
    (63, 7, None)
    """
    if not isinstance(window, str):
        return window
    if window == "all":
        return -(-steps // every)
    if window.isascii() and window.isdigit() and len(window) < 10:
        return int(window)
    raise BadValue("a window is a number of steps, or all of them", expected="all", got=window)


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


def update_(state: Tensors, spread: Tensors, s: Tensors, a1: float, a2: float) -> None:
    """Advance I (`state`) and U (`spread`) by one sensitivity; `s` is used up as scratch.

    >>> i, u = torch.zeros(1), torch.zeros(1)
    >>> update_([i], [u], [torch.tensor([0.2])], 0.85, 0.85)
    >>> i.item(), u.item()  # doctest: +ELLIPSIS
    (0.03..., 0.0255...)

    I = a1*I + (1-a1)*s, then U = a2*U + (1-a2)*|s - I| with the I just updated; no bias
    correction. The three hold as many float32 tensors, of the same shapes.
    """
    torch._foreach_lerp_(state, s, 1 - a1)
    torch._foreach_sub_(s, state)
    torch._foreach_abs_(s)
    torch._foreach_lerp_(spread, s, 1 - a2)


def decay_(state: Tensor, spread: Tensor, rule: Rule) -> None:
    """Advance I and U, flat, by a sensitivity of exactly zero: where there is no gradient.

    The same bits as `update_` with s = 0, for half the memory traffic.
    """
    zero = torch.zeros((), device=state.device)
    size = block_size(state.device)
    for i, u in zip(state.split(size), spread.split(size), strict=True):
        i.lerp_(zero, 1 - rule.a1)
        u.lerp_(i, 1 - rule.a2)  # |0 - I| = I, because I is never negative


def flush_(mean: Tensor) -> None:
    """Set to 0 what is at most `LEAST` of I or U, which are never negative.

    >>> mean = torch.tensor([1e-40, 1e-20])
    >>> flush_(mean)
    >>> mean
    tensor([0.0000e+00, 1.0000e-20])
    """
    for block in mean.split(block_size(mean.device)):
        torch.threshold_(block, LEAST, 0.0)


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


def row_scores(each: Tensor) -> Tensor:
    """Return the mean of a parameter's scores over each row: (rows, ..) -> (rows,) float32.

    >>> row_scores(torch.tensor([[1.0, 3.0], [0.0, 1.0]]))
    tensor([2.0000, 0.5000])
    """
    return each.flatten(1).mean(dim=1, dtype=torch.float64).float() if each.dim() > 1 else each


def sum_of_squares(gradient: Tensor) -> float:
    """Return the sum of squared entries: float32 within a block, float64 over the blocks.

    >>> sum_of_squares(torch.tensor([[3.0], [4.0]]))
    25.0
    """
    blocks = gradient.reshape(-1).float().split(CPU_BLOCK)
    return float(torch.stack([torch.dot(block, block) for block in blocks]).double().sum())
