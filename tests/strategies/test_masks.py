"""The laws of every mask, and of each: which entries stay, and with what probability."""

import dataclasses
import itertools
import re
import sys
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltakit.errors import BadValue, UnknownName
from deltakit.strategies import Masking, Stack, get, masks
from tests.strategies.stacks import pieces, random_deltas, whole_of

SHAPES = [(), (1,), (64,), (0, 3), (3, 4, 5)]
each_name = pytest.mark.parametrize("name", masks.names())


def variants() -> list[Any]:
    """Every mask with every combination of words."""
    found = []
    for name in masks.names():
        hints = get_type_hints(masks.find(name))
        words = {k: get_args(hint) for k, hint in hints.items() if get_origin(hint) is Literal}
        for chosen in itertools.product(*words.values()):
            given_words = dict(zip(words, chosen, strict=True))
            extra = {"heads": 3} if given_words.get("by") == "head" else {}
            masking = masks.get(name, {**given_words, **extra})
            found.append(pytest.param(masking, id="-".join([name, *chosen])))
    return found


each_variant = pytest.mark.parametrize("masking", variants())


def stack_of(deltas: Tensor, **rest: Any) -> Stack:
    scores = tuple(torch.rand(deltas.shape[1:]) for _ in deltas)
    return Stack(deltas, name="w", scores=scores, **rest)


@each_variant
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_keeps_shape_and_dtype_and_the_input(
    masking: Masking, shape: tuple[int, ...]
) -> None:
    for dtype in (torch.float32, torch.float64):
        deltas = random_deltas(3, *shape).to(dtype)
        before = deltas.clone()
        masked = masking.apply(stack_of(deltas))
        assert (masked.shape, masked.dtype) == (deltas.shape, dtype)
        masked.fill_(7.0)
        assert torch.equal(deltas, before)


@each_variant
def test_what_stays_is_the_delta_times_one_factor_or_as_it_was(masking: Masking) -> None:
    deltas = random_deltas(3, 6, 9)
    masked = masking.apply(stack_of(deltas))
    kept = masked != 0
    ratio = (masked / deltas)[kept]
    assert bool((ratio > 0.999).all())
    if getattr(masking, "rescale", "none") == "none":
        assert torch.equal(masked[kept], deltas[kept])


@each_variant
@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_cutting_a_parameter_into_blocks_changes_no_bit(masking: Masking, sizes: list[int]) -> None:
    deltas = random_deltas(3, 6, 9)
    stack = stack_of(deltas, whole=whole_of(deltas))
    whole = masking.apply(stack).reshape(3, -1)
    if masking.unit == "row":
        sizes = [9 * size for size in sizes]
    if masking.unit == "tensor":
        sizes = [54]
    for start, stop in pieces(54, sizes):
        part = dataclasses.replace(
            stack, deltas=deltas.reshape(3, -1)[:, start:stop], start=start, _draws={}
        )
        assert torch.equal(masking.apply(part), whole[:, start:stop])


@each_variant
def test_the_order_of_the_tasks_changes_nothing_but_for_excluding_masks(masking: Masking) -> None:
    if getattr(masking, "taken", "") == "excluded":
        return
    deltas, tasks = random_deltas(3, 6, 9), ("a", "b", "c")
    scores = tuple(torch.rand(6, 9) for _ in tasks)
    masked = masking.apply(Stack(deltas, tasks=tasks, name="w", scores=scores))
    for order in itertools.permutations(range(3)):
        stack = Stack(
            deltas[list(order)],
            tasks=tuple(tasks[i] for i in order),
            name="w",
            scores=tuple(scores[i] for i in order),
        )
        assert torch.equal(masking.apply(stack), masked[list(order)])


@each_variant
def test_finite_deltas_stay_finite_and_zeros_zero(masking: Masking) -> None:
    for deltas in (torch.zeros(3, 6, 9), torch.full((3, 6, 9), 1e-45), torch.ones(3, 6, 9)):
        masked = masking.apply(stack_of(deltas))
        assert not masked.isnan().any()
        assert bool(deltas.any()) or not masked.count_nonzero()


@each_name
def test_help_is_a_sentence_an_example_and_every_setting(name: str) -> None:
    found = masks.find(name)
    text = found.__doc__ or ""
    assert re.match(r"[A-Z].*\.(\n|$)", text)
    assert f'get("{name}"' in str(sys.modules[found.__module__].__doc__)
    for field in dataclasses.fields(found):
        assert re.search(rf"\b{field.name}\b", text), field.name


def test_an_unknown_mask_or_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown mask 'ramdom'") as refusal:
        masks.get("ramdom")
    assert "did you mean 'random'?" in str(refusal.value)
    with pytest.raises(UnknownName, match="did you mean 'gamma'"):
        masks.get("outliers", {"gama": 0.1})


@pytest.mark.parametrize(
    ("name", "bad", "fact"),
    [
        ("nm", {"n": 5}, "n is more than m"),
        ("nm", {"n": 0}, r"n is outside \[1, inf\)"),
        ("outliers", {"density": 0.9, "gamma": 0.2}, "more than 1 together"),
        ("rank", {"density": 0.1}, "no probabilities"),
        ("rank", {"density": 0.95}, "no probabilities"),
        ("group", {"by": "head"}, "need the number of heads"),
        ("random", {"density": 0}, r"density is outside \(0, 1\]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, bad: dict[str, Any], fact: str) -> None:
    with pytest.raises(BadValue, match=fact) as refusal:
        masks.get(name, bad)
    assert f"mask {name}" in str(refusal.value)


def test_disjoint_masks_own_every_entry_once_and_evenly() -> None:
    masked = masks.get("disjoint").apply(Stack(torch.ones(5, 20_000), name="w"))
    assert torch.equal(masked.sum(dim=0), torch.ones(20_000))
    # 4 000 expected each, standard deviation 56.6
    assert all(abs(int(row.sum()) - 4000) < 300 for row in masked)


def test_a_task_that_joins_disjoint_masks_takes_from_all_and_moves_nothing_else() -> None:
    tasks = ("a", "b", "c", "d")
    before = masks.get("disjoint").apply(Stack(torch.ones(3, 9000), tasks=tasks[:3]))
    after = masks.get("disjoint").apply(Stack(torch.ones(4, 9000), tasks=tasks))
    assert torch.equal(after[:3], before * (after[3] == 0))
    assert abs(int(after[3].sum()) - 2250) < 200


def test_random_masks_nest_and_arrival_thins_them() -> None:
    dynamic = masks.get("dynamic", {"by": "arrival"})
    before = dynamic.apply(Stack(torch.ones(2, 4000), name="w"))
    after = dynamic.apply(Stack(torch.ones(5, 4000), name="w"))
    assert bool((after[:2] <= before).all())
    assert abs(int(after[0].sum()) - 800) < 120


def test_norm_gives_larger_deltas_more_entries_within_the_budget() -> None:
    parts = {"a": torch.full((1, 1000), 1.0), "b": torch.full((1, 1000), 3.0)}
    model = whole_of(torch.cat(list(parts.values()), dim=1))
    model.parts = (1000, 1000)
    dynamic = masks.get("dynamic", {"by": "norm", "density": 0.4})
    found = [
        dynamic.density_of(Stack(d, name=n, model=model, model_start=at), 0)  # type: ignore[attr-defined]
        for at, (n, d) in zip((0, 1000), parts.items(), strict=True)
    ]
    assert found == pytest.approx([0.2, 0.6])


def test_rows_columns_and_heads_share_a_draw() -> None:
    ones = torch.ones(1, 12, 12)
    row = masks.get("group", {"by": "row"}).apply(Stack(ones, name="w"))[0]
    assert set(row.sum(dim=1).tolist()) == {0.0, 12.0}
    column = masks.get("group", {"by": "column"}).apply(Stack(ones, name="w"))[0]
    assert set(column.sum(dim=0).tolist()) == {0.0, 12.0}
    head = masks.get("group", {"by": "head", "heads": 4})
    q, k, o = (
        head.apply(Stack(ones, name=f"layers.0.self_attn.{part}_proj.weight"))[0] for part in "qko"
    )
    assert torch.equal(q, k)
    assert torch.equal(q.T, o)
    assert set(q.reshape(4, 36).sum(dim=1).tolist()) == {0.0, 36.0}
    with pytest.raises(BadValue, match="do not divide a parameter evenly"):
        masks.get("group", {"by": "head", "heads": 5}).apply(
            Stack(ones, name="layers.0.self_attn.q_proj.weight")
        )


@pytest.mark.parametrize("name", ["importance", "rank", "random"])
def test_rescaling_by_the_probability_keeps_the_mean(name: str) -> None:
    values = np.random.default_rng(0).normal(1.0, 0.5, (1, 1, 200_000)).astype(np.float32)
    masking = masks.get(name, {"density": 0.5, "rescale": "inverse"})
    masked = masking.apply(Stack(torch.from_numpy(values), name="w"))
    assert abs(float(masked.mean(dtype=torch.float64)) - float(values.mean())) < 0.02


def test_importance_keeps_its_budget() -> None:
    deltas = random_deltas(1, 50_000)
    masked = masks.get("importance", {"density": 0.1}).apply(Stack(deltas, name="w"))
    assert abs(int(masked.count_nonzero()) - 5000) < 250


def test_rank_orders_float32_as_float64_ties_and_signs_included():
    draws = torch.Generator().manual_seed(0)
    rows = torch.randint(-4, 5, (2, 3, 50), generator=draws).float()
    rows[0, 0, 3] = -0.0
    rank = masks.get("rank", {"density": 0.5, "eps": 0.2})
    found = rank.densities(Stack(rows))
    assert torch.equal(found, rank.densities(Stack(rows.double())))


def test_a_task_that_changes_nothing_takes_nothing_from_a_later_one() -> None:
    deltas = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 8.0, 1.0, 2.0]])
    expected = torch.tensor([9.0, 8.0, 0.0, 0.0])
    masked = masks.get("nm", {"taken": "excluded"}).apply(Stack(deltas))
    assert torch.equal(masked[1], expected)
    assert torch.equal(get("cabs").merge(Stack(deltas)), expected)
