"""Rows of an embedding that decay late, and all at once, have the bits of those that never wait."""

import pytest
import torch
from torch import nn

from deltakit.learn.gradients import TALL
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.scores import FLUSH_EVERY, LEAST

ROWS, WIDTH = TALL + 5, 8


def gradient(step: int) -> torch.Tensor | None:
    """Of a step: a few rows, or no rows, or all of them, or no gradient at all."""
    if step % 9 == 4:
        return None
    generator = torch.Generator().manual_seed(step)
    found = torch.randn(ROWS, WIDTH, generator=generator)
    if step % 13 != 11:
        share = (0.1, 0.001, 0.0)[step % 3]
        found[torch.rand(ROWS, generator=generator) >= share] = 0
    return found


def model() -> nn.ParameterDict:
    words = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1000))
    return nn.ParameterDict({"words": nn.Parameter(words), "bias": nn.Parameter(torch.ones(1))})


def follow(capture: KlfImportance, given: nn.ParameterDict, steps: range) -> KlfImportance:
    for step in steps:
        given["words"].grad = gradient(step)
        given["bias"].grad = torch.ones(1)
        capture.step()
    return capture


@pytest.mark.parametrize("steps", [1, 3, 31, 2 * FLUSH_EVERY + 3])
@pytest.mark.parametrize("a", [0.85, 0.4])
def test_rows_that_decay_late_equal_the_recurrence_over_the_whole_tensor(steps, a):
    given = model()
    attached = KlfImportance.attach(given, a1=a, a2=a, units="element")
    capture = follow(attached, given, range(steps))
    weights = given["words"].detach()
    i, u = torch.zeros(ROWS, WIDTH), torch.zeros(ROWS, WIDTH)
    for step in range(steps):
        found = gradient(step)
        s = torch.zeros_like(weights) if found is None else (weights * found).abs()
        i = torch.lerp(i, s, 1 - a)
        u = torch.lerp(u, (s - i).abs(), 1 - a)
        if (step + 1) % FLUSH_EVERY == 0:
            i, u = (torch.where(mean <= LEAST, 0.0, mean) for mean in (i, u))
    assert torch.equal(capture.map("t")["words"], i * u)
    means = capture._recurrence.means["words"]
    assert torch.equal(means.state.view(ROWS, WIDTH), i)
    assert torch.equal(means.spread.view(ROWS, WIDTH), u)


def test_a_map_taken_midway_changes_nothing_that_follows():
    looked, unlooked = model(), model()
    captures = [KlfImportance.attach(each, units="element") for each in (looked, unlooked)]
    for step in range(40):
        follow(captures[0], looked, range(step, step + 1)).map("midway")
    follow(captures[1], unlooked, range(40))
    expected = captures[1].map("t")
    for name, found in captures[0].map("t").items():
        assert torch.equal(found, expected[name])


@pytest.mark.parametrize("rows", [3, TALL])
def test_what_no_gradient_reaches_any_more_comes_to_zero(rows):
    # Rounded to nearest, a subnormal number times .85 would stay where it is for ever.
    table = nn.ParameterDict({"words": nn.Parameter(torch.ones(rows, 2))})
    capture = KlfImportance.attach(table)
    table["words"].grad = torch.zeros(rows, 2)
    table["words"].grad[1] = 1e-6
    for _ in range(15 * FLUSH_EVERY):
        capture.step()
        table["words"].grad.zero_()
    means = capture._recurrence.means["words"]
    assert not means.state.any()
    assert not means.spread.any()
