"""The laws of strategies that a task can be added to later: every one has them by existing."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltakit.dtypes import safetensors_dtype
from deltakit.strategies import Method, Stack, Streaming, get, masks
from deltakit.tensors.header import TensorInfo
from tests.strategies.stacks import facts, random_deltas, whole_of
from tests.strategies.test_contract import scores_for, variants

SETTINGS = {"sotu": {"p": 0.5}}  # where the default does not stream
VARIANTS = [
    param
    for param in variants()
    if isinstance(param.values[0], Streaming) and param.values[0].streams
] + [pytest.param(get(name, given), id=f"{name}-{given}") for name, given in SETTINGS.items()]
MASKS = {
    "random": {"density": 0.5},
    "group": {},
    "magnitude": {},
    "outliers": {},
    "nm": {"taken": "shared"},
    "rank": {},
    "importance": {},
    "dynamic": {"by": "depth"},
}
TASKS = ("one", "two", "three", "four", "five")
WEIGHTS = (0.7, 1.3, 0.9, 2.0, 0.1)
NAMES = ["u", "v", "w", "x"]

each = pytest.mark.parametrize("strategy", VARIANTS)
cuts = st.lists(st.integers(1, 4), max_size=4, unique=True).map(sorted)


def stack_of(strategy: Streaming, deltas: Tensor, tasks: slice) -> Stack:
    """Some of the tasks, as the engine gives them where those before are known by their state."""
    stop = tasks.indices(len(TASKS))[1]
    weights = WEIGHTS if strategy.weighted else (1.0,) * len(WEIGHTS)
    return Stack(
        deltas[tasks],
        weights[tasks],
        TASKS[tasks],
        name="w",
        fact=facts(strategy, stop, NAMES).get("w"),
        scores=scores_for(strategy, TASKS, deltas)[tasks],
        whole=whole_of(deltas[tasks]),
    )


def one_by_one(
    strategy: Streaming | Method, plain: Streaming, deltas: Tensor, at: Sequence[int]
) -> tuple[Mapping[str, Tensor], Tensor]:
    """The running tensors and the merge of the tasks added in groups that begin at `at`."""
    running: Mapping[str, Tensor] = {}
    for start, stop in zip([0, *at], [*at, len(TASKS)], strict=True):
        stack = stack_of(plain, deltas, slice(start, stop))
        running = strategy.add({k: v.clone() for k, v in running.items()}, stack)
    whole = stack_of(plain, deltas, slice(0, len(TASKS)))
    if isinstance(strategy, Method):
        return running, strategy.result(running, whole.weights, whole)
    return running, strategy.result(running, whole.weights)


@each
@settings(max_examples=6)
@given(at=cuts, seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_tasks_added_one_by_one_give_the_bits_of_all_at_once(
    strategy: Streaming, at: list[int], seed: int, dtype: torch.dtype
) -> None:
    deltas = random_deltas(5, 6, 9, seed=seed).to(dtype) * 1.1
    at_once = strategy.merge(stack_of(strategy, deltas, slice(0, 5)))
    _, merged = one_by_one(strategy, strategy, deltas, at)
    assert torch.equal(merged, at_once)


@each
def test_what_is_kept_is_what_was_said(strategy: Streaming) -> None:
    for shape in ((), (1,), (9,), (0, 3), (6, 9), (3, 4, 5)):
        deltas = random_deltas(5, *shape)
        info = TensorInfo(safetensors_dtype(deltas.dtype), shape)
        said = strategy.keeps(info, scores_for(strategy, TASKS, deltas))
        kept, _ = one_by_one(strategy, strategy, deltas, [2])
        assert {n: (safetensors_dtype(t.dtype), tuple(t.shape)) for n, t in kept.items()} == {
            n: (part.dtype, part.shape) for n, part in said.items()
        }


@each
def test_what_was_kept_is_not_modified(strategy: Streaming) -> None:
    deltas = random_deltas(5, 6, 9)
    before = strategy.add({}, stack_of(strategy, deltas, slice(0, 2)))
    copies = {name: tensor.clone() for name, tensor in before.items()}
    after = strategy.add(before, stack_of(strategy, deltas, slice(2, 5)))
    again = {name: tensor.clone() for name, tensor in after.items()}
    strategy.result(after, WEIGHTS)
    assert all(torch.equal(before[name], copies[name]) for name in copies)
    assert all(torch.equal(after[name], again[name]) for name in again)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "average", "magmax"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_that_streams_goes_before_any_of_them(name: str, mask: str) -> None:
    thinning = masks.get(mask, MASKS[mask])
    strategy = get(name)
    assert thinning.streams
    assert isinstance(strategy, Streaming)
    method = Method(strategy, thinning, lines=(0.5, 1.0))
    assert method.streams
    deltas = random_deltas(5, 6, 9)
    at_once = method.merge(stack_of(strategy, deltas, slice(0, 5)))
    assert torch.equal(one_by_one(method, strategy, deltas, [1, 3])[1], at_once)


def test_a_mask_that_depends_on_the_number_of_tasks_does_not_stream() -> None:
    others = {
        "random": {},
        "disjoint": {},
        "nm": {"taken": "excluded"},
        "dynamic": {"by": "arrival"},
    }
    for name, chosen in others.items():
        assert not masks.get(name, chosen).streams
        assert not Method(get("average"), masks.get(name, chosen)).streams


def test_settings_that_do_not_stream_are_told() -> None:
    for param in variants():
        strategy = param.values[0]
        if isinstance(strategy, Streaming) and not strategy.streams:
            assert strategy.streams_with, f"{strategy} does not say with what it streams"
    for name in masks.names():
        found = masks.find(name)
        assert isinstance(found.streams, bool) != bool(found.streams_with)


def test_what_the_catalogue_says_streams_does() -> None:
    sums = ("sotu", "task_arithmetic", "average", "dare", "magmax", "ties", "fisher", "regmean")
    for name in (*sums, "klf", "cabs", "opcm"):
        strategy = get(name, SETTINGS.get(name))
        assert isinstance(strategy, Streaming)
        assert strategy.streams
    for name in ("consensus", "pcb", "tsv", "knots"):
        assert not isinstance(get(name), Streaming)
