"""Any strategy and any mask, with any settings in range, any shape and number of tasks."""

import contextlib
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deltakit.errors import BadValue
from deltakit.strategies import Method, Range, Stack, find, get, masks, names, range_of, weights
from tests.strategies.stacks import facts
from tests.strategies.test_contract import gram_for

SHAPES = st.one_of(
    st.sampled_from([(), (1,), (64,), (0,), (0, 3), (3, 0), (1, 1), (2, 3, 4)]),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that a setting's type and range allow."""
    interval = range_of(hint) or Range("(-inf, inf)")
    kinds = {int, float} & {*get_args(hint), hint}
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if any(get_origin(part) is Literal for part in get_args(hint)):
        return st.just("auto")
    if int in kinds:
        return st.integers(1, 6)
    if float in kinds:
        return st.floats(0.0, 1.0).filter(interval.holds)
    return st.just("")


@st.composite
def any_of(draw: st.DrawFn, found: type[Any]) -> Any:
    """A strategy or mask with any settings: each that goes with those drawn before it."""
    hints, chosen = get_type_hints(found, include_extras=True), found()
    for field in draw(st.permutations(dataclasses.fields(found))):
        value = draw(values(hints[field.name]))
        with contextlib.suppress(BadValue):
            chosen = dataclasses.replace(chosen, **{field.name: value})
    return chosen


def stack(experts: int, shape: tuple[int, ...], wide: bool, seed: int, statistic: str) -> Stack:
    drawn = np.random.default_rng(seed)
    made = drawn.normal(size=(experts, *shape)) * (drawn.random((experts, *shape)) < 0.7)
    deltas = torch.from_numpy(np.asarray(made)).to(torch.float64 if wide else torch.float32)
    scores = tuple(
        gram_for(str(i), shape)
        if statistic == "gram"
        else torch.from_numpy(np.asarray(drawn.random(shape), dtype=np.float32))
        for i in range(experts)
    )
    base = torch.from_numpy(np.asarray(drawn.normal(size=shape))).to(deltas.dtype)
    return Stack(deltas, name="w", base=base, seed=seed % 100, scores=scores, depth=0.5)


def check(method: Method, given_stack: Stack) -> None:
    before = given_stack.deltas.clone()
    merged = method.merge(given_stack)
    assert (merged.shape, merged.dtype) == (before.shape[1:], before.dtype)
    assert bool(merged.isfinite().all())
    assert torch.equal(given_stack.deltas, before)
    again = dataclasses.replace(given_stack, whole=None, model=None, _draws={})
    assert torch.equal(method.merge(again), merged)


@pytest.mark.parametrize("name", names())
@settings(max_examples=20)
@given(data=st.data())
def test_any_strategy_with_any_settings(name: str, data: st.DataObject) -> None:
    strategy = data.draw(any_of(find(name)))
    experts = data.draw(st.integers(1, strategy.most or 5))
    shape, wide = data.draw(SHAPES), data.draw(st.booleans())
    made = stack(experts, shape, wide, data.draw(st.integers(0, 1 << 30)), strategy.statistic)
    found = facts(strategy, experts, ["u", "v", "w"])
    check(Method(strategy), dataclasses.replace(made, fact=found.get("w")))


TAKE_MASKS = ["average", "ties", "sce", "tsv", "fisher"]


@pytest.mark.parametrize("mask", masks.names())
@settings(max_examples=20)
@given(data=st.data())
def test_any_mask_weighting_and_lines_around_a_strategy_of_each_family(
    mask: str, data: st.DataObject
) -> None:
    strategy = get(data.draw(st.sampled_from(TAKE_MASKS)))
    kind = data.draw(st.sampled_from([None, *weights.names()])) if strategy.weighted else None
    experts, shape = data.draw(st.integers(1, 4)), data.draw(SHAPES)
    made = stack(experts, shape, False, data.draw(st.integers(0, 1 << 30)), "scores")
    lines = data.draw(st.sampled_from([None, (0.5, 0.5)]))
    weighting = None if kind is None else weights.get(kind)
    try:
        method = Method(strategy, data.draw(any_of(masks.find(mask))), weighting, lines)
    except BadValue:
        assume(False)
    try:
        strategy.check_weights(weighting.weights(made) if weighting else made.weights)
    except BadValue:
        with pytest.raises(BadValue, match=f"auto:{kind} found weights that"):
            method.merge(made)
        return
    check(method, made)


@pytest.mark.parametrize("name", ["ties", "tsv", "fisher"])
def test_found_weights_that_mean_nothing_to_a_strategy_are_refused(name: str) -> None:
    alike = torch.tensor([[1.0, 0.0, 0.0], [0.69, 0.69, 0.2186], [0.0, 1.0, 0.0]])  # .69, .69, 0
    made = Stack(alike, name="h.0.w", scores=(torch.tensor(1.0),) * 3)
    method = Method(get(name), weighting=weights.get("similarity"))
    assert min(weights.get("similarity").weights(made)) < 0.0
    with pytest.raises(BadValue, match="auto:similarity found weights") as error:
        method.merge(made)
    assert "h.0.w" in str(error.value)
    assert name in str(error.value)
    assert "remedy" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tsv", "iso_c", "wudi"])
def test_factoring_a_matrix_of_4096_by_4096_stays_within_the_plans_memory(name: str) -> None:
    import resource

    from deltakit.engine.limits import entry_bytes

    deltas = torch.randn(2, 4096, 4096, generator=torch.Generator().manual_seed(0)) * 1e-3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merged = get(name).merge(Stack(deltas))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert bool(merged.isfinite().all())
    assert peak < 4096 * 4096 * entry_bytes(2, "tensor")
