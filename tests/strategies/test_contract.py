"""The laws that every strategy gets by existing: a new file in the room needs no code here.

What a strategy is exempt from it says itself: `ordered`, `weighted`, `needs_importance`,
`combines`, `most`, `unit`, `faithful`, `homogeneous`, and fields named `density` (kept) or `p`
(dropped).
"""

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltakit.errors import BadValue, UnknownName
from deltakit.strategies import Stack, Strategy, find, get, names
from tests.strategies.stacks import facts, merge_in_pieces, model_of, random_deltas, whole_of

NAMES = names()
SHAPES = [(), (1,), (64,), (0, 3), (3, 4, 5)]
KEEPS_ALL = {"density": 1.0, "p": 0.0, "eps": 0.0, "gamma": 0.0, "eta": 1.0, "n": 4}
REFUSED = {
    "density": [0.0, -0.1, 1.1, 20, "nan", "inf"],
    "p": [1.0, -0.1, 1.1, 90, "nan", "-inf"],
}


def fields(name: str) -> dict[str, Any]:
    """The settings of a strategy with their types."""
    hints = get_type_hints(find(name))
    return {field.name: hints[field.name] for field in dataclasses.fields(find(name))}


def words(name: str) -> dict[str, tuple[str, ...]]:
    """The settings that are one of a few words."""
    return {
        key: get_args(hint) for key, hint in fields(name).items() if get_origin(hint) is Literal
    }


def variants() -> Iterator[Any]:
    """Every strategy with every combination of words."""
    for name in NAMES:
        choices = words(name)
        for chosen in itertools.product(*choices.values()):
            yield pytest.param(
                get(name, dict(zip(choices, chosen, strict=True))), id="-".join([name, *chosen])
            )


each_name = pytest.mark.parametrize("name", NAMES)
each_variant = pytest.mark.parametrize("strategy", list(variants()))


def undropped(strategy: Strategy) -> Strategy:
    """The same strategy, keeping every entry."""
    here = {field.name for field in dataclasses.fields(strategy)}
    return dataclasses.replace(strategy, **{k: v for k, v in KEEPS_ALL.items() if k in here})


def some(strategy: Strategy, experts: int) -> int:
    """So many experts, or as many as the strategy can merge."""
    return experts if strategy.most is None else min(experts, strategy.most)


def assert_same(strategy: Strategy, merged: Tensor, expected: Tensor) -> None:
    """Equal to the bit; for a strategy that factors matrices, up to the factoring's error."""
    if strategy.unit == "tensor":
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5 * _largest(expected))
    else:
        assert torch.equal(merged, expected)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def stack_of(strategy: Strategy, deltas: Tensor, **rest: Any) -> Stack:
    """A stack of one parameter, with what the strategy's `prepare` made of random maps."""
    deltas = deltas[: some(strategy, len(deltas))]
    for key in ("weights", "tasks"):
        if key in rest:
            rest[key] = rest[key][: len(deltas)]
    found = facts(strategy, len(deltas), ["u", "v", "w", "x", "y", "z"])
    rest.setdefault("scores", scores_for(strategy, rest.get("tasks", range(len(deltas))), deltas))
    return Stack(deltas, name="w", fact=found.get("w"), **rest)


def scores_for(strategy: Strategy, tasks: Iterable[Any], deltas: Tensor) -> tuple[Tensor, ...]:
    """Importance of every entry, the same for a task wherever it stands."""
    if not strategy.needs_importance:
        return ()
    if strategy.statistic == "gram":
        return tuple(gram_for(str(task), deltas.shape[1:]) for task in tasks)
    if type(strategy).prepare is not Strategy.prepare:  # of the same units as `facts` prepares
        return tuple(torch.tensor(1.0) for _ in tasks)
    each = [random_deltas(1, *deltas.shape[1:], seed=sum(map(ord, str(t))))[0].abs() for t in tasks]
    return tuple(each)


def gram_for(task: str, shape: tuple[int, ...]) -> Tensor:
    """The Gram matrix of random inputs to a matrix of this shape; a score of 1 for others."""
    if len(shape) != 2:
        return torch.ones(())
    inputs = np.random.default_rng(sum(map(ord, task))).normal(size=(3 * shape[1], shape[1]))
    return torch.from_numpy((inputs.T @ inputs).astype(np.float32))


@each_variant
def test_one_expert_with_nothing_dropped_is_that_expert(strategy: Strategy) -> None:
    deltas = random_deltas(1, 6, 5)
    merged = undropped(strategy).merge(stack_of(strategy, deltas))
    if strategy.faithful:
        torch.testing.assert_close(merged, deltas[0])


@each_variant
def test_identical_experts_give_the_delta_or_its_multiple(strategy: Strategy) -> None:
    strategy = undropped(strategy)
    delta = random_deltas(1, 6, 5)
    merged = strategy.merge(stack_of(strategy, delta.expand(3, 6, 5)))
    if strategy.combines != "neither":
        times = {"mean": 1, "sum": some(strategy, 3)}[strategy.combines]
        torch.testing.assert_close(merged, delta[0] * times)


@each_variant
def test_the_order_of_the_experts_matters_only_if_declared(strategy: Strategy) -> None:
    if strategy.ordered:
        return
    count = some(strategy, 4)
    deltas = random_deltas(count, 6, 5)
    weights, tasks = (1.0, 0.5, 2.0, 0.25)[:count], ("a", "b", "c", "d")[:count]
    merged = strategy.merge(stack_of(strategy, deltas, weights=weights, tasks=tasks))
    for order in itertools.permutations(range(count)):
        shuffled = stack_of(
            strategy,
            deltas[list(order)],
            weights=tuple(weights[i] for i in order),
            tasks=tuple(tasks[i] for i in order),
        )
        again = strategy.merge(shuffled)
        if strategy.unit == "tensor":
            assert_same(strategy, again, merged)
        else:
            torch.testing.assert_close(again, merged)


@each_variant
@pytest.mark.parametrize("factor", [-1.0, 0.25, 4.0])
def test_scaling_all_deltas_by_a_power_of_two_scales_the_result_exactly(
    strategy: Strategy, factor: float
) -> None:
    if not strategy.homogeneous:
        return
    deltas = random_deltas(3, 6, 5)
    merged = strategy.merge(stack_of(strategy, deltas))
    assert_same(strategy, strategy.merge(stack_of(strategy, deltas * factor)), merged * factor)


@each_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_zero_deltas_give_exactly_zero(strategy: Strategy, shape: tuple[int, ...]) -> None:
    merged = strategy.merge(stack_of(strategy, torch.zeros(3, *shape)))
    assert merged.shape == shape
    assert not merged.count_nonzero()


@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_and_dtype_are_kept_and_the_shape_changes_no_value(
    strategy: Strategy, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    deltas = random_deltas(3, *shape).to(dtype)
    merged = strategy.merge(stack_of(strategy, deltas))
    assert (merged.shape, merged.dtype) == (shape, dtype)
    flat = strategy.merge(stack_of(strategy, deltas.reshape(3, -1)))
    if strategy.unit == "element":
        assert torch.equal(merged.reshape(-1), flat)


@each_variant
def test_inputs_are_not_modified(strategy: Strategy) -> None:
    for chosen in (strategy, undropped(strategy)):
        deltas, base = random_deltas(3, 6, 5), torch.ones(6, 5)
        before = deltas.clone()
        merged = chosen.merge(stack_of(chosen, deltas, base=base))
        merged.fill_(7.0)  # the result is no view of an input either
        assert torch.equal(deltas, before)
        assert torch.equal(base, torch.ones(6, 5))


@each_variant
def test_the_same_seed_gives_the_same_bits(strategy: Strategy) -> None:
    deltas = random_deltas(3, 64)
    first, second = (strategy.merge(stack_of(strategy, deltas, seed=5)) for _ in range(2))
    assert torch.equal(first, second)


@each_variant
@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_cutting_a_parameter_into_blocks_changes_no_bit(
    strategy: Strategy, sizes: list[int]
) -> None:
    deltas = random_deltas(3, 6, 9)
    base = torch.linspace(-1.0, 1.0, 54).reshape(6, 9)
    whole = whole_of(deltas, base=base)
    stack = stack_of(strategy, deltas, weights=(0.7, 1.3, 0.9), base=base, whole=whole)
    merged = strategy.merge(stack)
    assert torch.equal(merge_in_pieces(strategy, stack, sizes), merged)


@each_variant
@settings(max_examples=4)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), look=st.integers(1, 100))
def test_cutting_a_model_into_blocks_changes_no_bit(
    strategy: Strategy, sizes: list[int], look: int
) -> None:
    shapes = {"c": (6, 9), "a": (), "d": (0, 3), "b": (20,)}
    parameters = {n: random_deltas(2, *shape, seed=ord(n)) for n, shape in shapes.items()}
    found = facts(strategy, 2, sorted(parameters))
    model, start = model_of(parameters, look), 0
    for name, deltas in sorted(parameters.items()):
        stack = Stack(
            deltas,
            name=name,
            fact=found.get(name),
            scores=scores_for(strategy, range(2), deltas),
            whole=whole_of(deltas),
            model=model,
            model_start=start,
        )
        whole = strategy.merge(stack)
        assert torch.equal(merge_in_pieces(strategy, stack, sizes), whole)
        start += deltas[0].numel()


@each_variant
@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(torch.zeros(3, 40), id="zeros"),
        pytest.param(torch.full((3, 1), 0.5), id="one entry"),
        pytest.param(torch.full((4, 40), 0.5) * torch.tensor([[1], [1], [-1], [-1]]), id="level"),
        pytest.param(torch.full((40, 256), 1e37), id="sums overflow"),
        pytest.param(random_deltas(8, 256).sign() * 1e37, id="rescaled sums overflow"),
        pytest.param(torch.tensor([[1e-45, 1e5, 1e-45, 0.0]] * 8), id="far apart"),
    ],
)
def test_finite_deltas_never_give_nan(strategy: Strategy, deltas: Tensor) -> None:
    assert not strategy.merge(stack_of(strategy, deltas)).isnan().any()


@each_name
def test_settings_come_back_from_their_own_dict_and_from_text(name: str) -> None:
    strategy = get(name)
    written = dataclasses.asdict(strategy)
    assert get(name, written) == strategy
    assert get(name, {key: str(value) for key, value in written.items()}) == strategy


@each_name
def test_every_setting_has_one_default_and_cannot_be_changed(name: str) -> None:
    assert get(name) == find(name)() == get(name, {})
    for key, value in dataclasses.asdict(get(name)).items():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(get(name), key, value)


@each_name
def test_help_is_a_sentence_an_example_a_paper_and_every_setting(name: str) -> None:
    strategy = find(name)
    text = strategy.__doc__ or ""
    assert re.match(r"[A-Z].*\.(\n|$)", text), "the docstring's first line is a sentence"
    assert f'get("{name}"' in str(sys.modules[strategy.__module__].__doc__), "no example that runs"
    assert "arXiv:" in strategy.paper
    assert 0 < len(strategy.formula) <= 71, "one line of a terminal, after the word formula"
    for key in fields(name):
        assert re.search(rf"\b{key}\b", text), f"the docstring does not say what {key} is"


@each_name
def test_an_unknown_setting_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(UnknownName, match=f"{name} has no setting 'zzz'"):
        get(name, {"zzz": 1})
    for key in fields(name):
        if len(key) > 2:
            with pytest.raises(UnknownName, match=f"did you mean '{key}'"):
                get(name, {key[:-1] + "_" + key[-1]: 1})


@each_name
def test_a_word_that_is_no_choice_is_refused_however_it_is_given(name: str) -> None:
    for key, choices in words(name).items():
        wrong = choices[0] + "x"
        with pytest.raises(BadValue, match=f"{key} cannot be '{wrong}'") as refusal:
            get(name, {key: wrong})
        assert f"did you mean '{choices[0]}'" in str(refusal.value)
        assert f"strategy {name}" in str(refusal.value)
        with pytest.raises(BadValue, match=" or ".join(choices)):
            find(name)(**{key: wrong})


@each_name
def test_numbers_that_mean_nothing_are_refused(name: str) -> None:
    for key, hint in fields(name).items():
        if hint is float or float in get_args(hint):
            for value in [*REFUSED.get(key, ["nan", -1.0]), "much", None, True]:
                with pytest.raises(BadValue, match=key) as refusal:
                    get(name, {key: value})
                assert f"strategy {name}" in str(refusal.value)


@each_name
def test_weights_that_only_scale_are_accepted(name: str) -> None:
    find(name)().check_weights([1.0, 0.5, 2.0])


def test_the_contract_sees_every_file_of_the_room() -> None:
    assert {"average", "dare", "dare_ties", "klf", "sotu", "task_arithmetic", "ties"} <= set(NAMES)
