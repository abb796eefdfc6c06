"""Where PEFT's merging kernels and ours agree, and where and why they do not."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deltakit.strategies import Stack, get
from tests.strategies.stacks import GivenMasks


@pytest.fixture(scope="module")
def peft() -> ModuleType:
    """peft.utils.merge_utils, without the rest of PEFT and of transformers."""
    package = importlib.util.find_spec("peft")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "utils" / "merge_utils.py"
    spec = importlib.util.spec_from_file_location("peft_merge_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WEIGHTS = (0.3, 1.7, 1.0)


def deltas(*shape: int) -> Tensor:
    """Continuous values: no equal magnitudes and no sum that is exactly zero."""
    values = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    return torch.from_numpy(values)


def theirs(kernel: Any, stack: Stack, *rest: Any, **words: Any) -> Tensor:
    return kernel(list(stack.deltas), torch.tensor(stack.weights), *rest, **words)


def ours(name: str, stack: Stack, **settings: Any) -> Tensor:
    return get(name, settings).merge(stack)


def test_task_arithmetic_is_the_same(peft: ModuleType) -> None:
    stack = Stack(deltas(40, 25), weights=WEIGHTS)
    merged = ours("task_arithmetic", stack)
    assert torch.equal(merged, theirs(peft.task_arithmetic, stack))


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_trimming_is_the_same(peft: ModuleType, density: float) -> None:
    stack = Stack(deltas(40, 25), weights=WEIGHTS)
    merged = (stack.trimmed(density) * torch.tensor(WEIGHTS).reshape(3, 1, 1)).sum(dim=0)
    expected = theirs(peft.magnitude_prune, stack, density)
    assert torch.equal(merged, expected)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_ties_is_the_same_for_equal_weights_when_it_divides_by_the_count(
    peft: ModuleType, density: float
) -> None:
    stack = Stack(deltas(40, 25))
    merged = ours("ties", stack, density=density, divide="count")
    expected = theirs(peft.ties, stack, density)
    assert torch.equal(merged, expected)
    assert int((merged != 0).sum()) > 200


def test_ties_that_counts_heads_is_the_same_for_any_weights_where_they_are_not_level(
    peft: ModuleType,
) -> None:
    stack = Stack(deltas(40, 25), weights=WEIGHTS)
    merged = ours("ties", stack, density=0.5, elect="count", divide="count")
    expected = theirs(peft.ties, stack, 0.5, majority_sign_method="frequency")
    level = stack.trimmed(0.5).sign().sum(dim=0) == 0
    assert torch.equal(merged[~level], expected[~level])
    assert 100 < int(level.sum()) < 900


def test_ties_differs_where_signs_are_level_peft_elects_plus_and_we_none(
    peft: ModuleType,
) -> None:
    stack = Stack(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
    settings = {"elect": "count", "divide": "count", "density": 0.5}
    assert theirs(peft.ties, stack, 0.5, majority_sign_method="frequency").tolist() == [2.0, 0.0]
    assert theirs(peft.ties, stack, 0.5).tolist() == [2.0, 0.0]
    assert ours("ties", stack, **settings).tolist() == [0.0, 0.0]


def test_ties_differs_with_weights_peft_elects_without_them(peft: ModuleType) -> None:
    stack = Stack(torch.tensor([[2.0, 0.0], [-3.0, 0.0]]), weights=(2.0, 1.0))
    assert theirs(peft.ties, stack, 0.5).tolist() == [-3.0, 0.0]
    assert ours("ties", stack, density=0.5, divide="count").tolist() == [4.0, 0.0]


def test_ties_differs_in_the_divisor_peft_scales_where_we_take_a_mean(peft: ModuleType) -> None:
    stack = Stack(torch.tensor([[2.0, 0.0], [3.0, 0.0]]), weights=(0.5, 0.5))
    assert theirs(peft.ties, stack, 0.5).tolist() == [1.25, 0.0]
    assert ours("ties", stack, density=0.5, divide="count").tolist() == [1.25, 0.0]
    assert ours("ties", stack, density=0.5).tolist() == [2.5, 0.0]


def test_trimming_differs_in_rounding_peft_keeps_the_floor_and_sometimes_nothing(
    peft: ModuleType,
) -> None:
    stack = Stack(torch.tensor([[1.0, 2.0, 3.0]]))
    assert theirs(peft.magnitude_prune, stack, 0.9).tolist() == [0.0, 2.0, 3.0]
    assert stack.trimmed(0.9).tolist() == [[1.0, 2.0, 3.0]]
    assert theirs(peft.magnitude_prune, stack, 0.2).tolist() == [0.0, 0.0, 0.0]
    assert stack.trimmed(0.2).tolist() == [[0.0, 0.0, 3.0]]


@pytest.mark.parametrize("kernel", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.7])
def test_dare_is_the_same_given_the_same_masks(
    peft: ModuleType, monkeypatch: pytest.MonkeyPatch, kernel: str, density: float
) -> None:
    # PEFT's dare_ties elects without weights and divides by the count: weights 1 for it.
    weights = WEIGHTS if kernel == "dare_linear" else (1.0, 1.0, 1.0)
    values = deltas(40, 25)
    given = torch.from_numpy(np.random.default_rng(1).random((3, 40, 25)) < density)
    draws = iter(given.float())
    monkeypatch.setattr(torch, "bernoulli", lambda _: next(draws))
    stack = GivenMasks(values, weights=weights, masks=given)
    name = "dare" if kernel == "dare_linear" else "dare_ties"
    expected = theirs(getattr(peft, kernel), stack, density)
    merged = ours(name, stack, p=1 - density)
    assert torch.equal(merged, expected)
    assert int((merged != 0).sum()) > 200
