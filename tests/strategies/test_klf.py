import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from deltakit.errors import BadValue, NamesDiffer
from deltakit.strategies import Stack, get
from deltakit.strategies._klf_chain import chained_levels, joint_levels
from deltakit.strategies._klf_levels import Units
from deltakit.strategies._klf_units import means
from deltakit.strategies.klf import Klf
from deltakit.tensors.header import TensorInfo

RAW = np.array([2, 10, 4, 1, 6]) * 1e-6
EVERY = [
    dict(zip(("fusion", "order", "neither"), words, strict=True))
    for words in itertools.product(
        ("static", "adaptive"), ("sequential", "joint"), ("half", "running_mean")
    )
]
every = pytest.mark.parametrize("words", EVERY, ids=lambda words: "-".join(words.values()))


def klf(**settings: Any) -> Klf:
    strategy = get("klf", settings)
    assert isinstance(strategy, Klf)
    return strategy


def shares(*maps: Any, **settings: Any) -> np.ndarray:
    """Each task's share of each unit: (tasks, units)."""
    return klf(**settings).coefficients(np.array(maps, dtype=np.float64), [1] * len(maps[0]))


def fused(old: Any, new: Any, *maps: Any, **settings: Any) -> np.ndarray:
    """Two tasks' units, fused."""
    before, now = shares(*maps, **settings)
    return before * np.array(old) + now * np.array(new)


def close(got: np.ndarray, expected: Any) -> None:
    np.testing.assert_allclose(got, np.array(expected, dtype=np.float64), rtol=0, atol=1e-6)


def normalise(scores: Any) -> np.ndarray:
    """One map, min-max normalised."""
    raw = np.array(scores, dtype=np.float64)
    return joint_levels(lambda: [Units(raw[None])], 1, None).now[0].norm(raw)


def cumulative(*maps: Any) -> np.ndarray:
    """What the task after two others meets."""
    scores = np.array([*maps, maps[0]], dtype=np.float64)
    levels = chained_levels(lambda: [Units(scores)], 3, None, klf().beta)
    return list(levels.chain(scores))[-1][0]


def random_maps(tasks: int, units: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(sigma=2.0, size=(tasks, units))


def test_norm_by_hand() -> None:
    close(normalise(RAW), [1 / 9, 1, 1 / 3, 0, 5 / 9])
    close(normalise(np.full(4, 3.0)), [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("scores", "important"),
    [([0, 0.2, 0.5, 0.9, 1], {4}), ([0, 0, 1, 1, 1], set()), ([0, 1], {1})],
)
def test_important_is_strictly_above_the_interpolated_percentile(
    scores: list[float], important: set[int]
) -> None:
    # Nothing was important before, so an important unit is the current task's alone.
    current = shares([0.0] * len(scores), scores)[1]
    assert {unit for unit, share in enumerate(current) if share == 1.0} == important


def test_percentile_by_hand() -> None:
    assert np.quantile([0, 0.2, 0.5, 0.9, 1], klf().quantile) == pytest.approx(0.92)


def test_static_by_hand() -> None:
    p = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    c = [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    shared, previous, current, nobody = fused([1.0] * 10, [2.0] * 10, p, c)[:4]
    close(np.array([shared, previous, current, nobody]), [1.3, 1.0, 2.0, 1.5])


@pytest.mark.parametrize(("tau", "expected"), [(0.25, 1.880797), (0.15, 1.965555)])
def test_adaptive_by_hand(tau: float, expected: float) -> None:
    got = fused([1.0] * 3, [2.0] * 3, [0, 0.2, 1], [0, 0.7, 1], fusion="adaptive", tau=tau)
    close(got, [1.5, expected, 1.5])


def test_five_units_by_hand() -> None:
    p, old, new = [0, 0.3, 1, 0.9, 0.2], [0.0] * 5, [10.0] * 5
    close(fused(old, new, p, RAW), [5, 10, 0, 5, 5])
    close(
        fused(old, new, p, RAW, fusion="adaptive"),
        [6.093175, 9.426758, 0.649692, 0.265970, 8.056866],
    )
    close(cumulative(p, RAW), [0, 0.621739, 1, 0.778261, 0.356522])


def test_ten_units_by_hand() -> None:
    c, p = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10], [10, 0, 1, 2, 3, 4, 5, 6, 7, 9]
    got = fused(np.arange(10.0), np.arange(10.0) + 10, p, c)
    close(got, [0, 6, 7, 8, 9, 10, 11, 12, 18, 12])


@every
@pytest.mark.parametrize("level", [0.0, 3e-9])
def test_constant_importance_weighs_all_alike_and_is_never_nan(
    words: dict[str, str], level: float
) -> None:
    close(shares(np.full(7, level), np.full(7, level), **words), np.full((2, 7), 0.5))
    close(cumulative(np.full(7, level), np.full(7, level)), np.zeros(7))


@every
@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_the_shares_of_a_unit_are_fractions_that_sum_to_one(
    words: dict[str, str], tasks: int
) -> None:
    got = shares(*random_maps(tasks), **words)
    assert got.shape == (tasks, 30)
    assert ((got >= 0) & (got <= 1)).all()
    np.testing.assert_allclose(got.sum(axis=0), 1.0, rtol=0, atol=1e-15)


@every
def test_the_first_task_alone_is_itself_exactly(words: dict[str, str]) -> None:
    assert (shares(random_maps(1)[0], **words) == 1.0).all()


@pytest.mark.parametrize("fusion", ["static", "adaptive"])
def test_joint_does_not_depend_on_the_order_and_sequential_does(fusion: str) -> None:
    maps, order = random_maps(4), [2, 0, 3, 1]
    joint, chain = (
        (
            shares(*maps, fusion=fusion, order=word)[order],
            shares(*maps[order], fusion=fusion, order=word),
        )
        for word in ("joint", "sequential")
    )
    np.testing.assert_allclose(joint[0], joint[1], rtol=0, atol=1e-15)
    assert np.abs(chain[0] - chain[1]).max() > 0.1


@pytest.mark.parametrize("fusion", ["static", "adaptive"])
def test_sequential_shares_equal_the_chain_of_the_paper(fusion: str) -> None:
    maps = random_maps(4, units=12)
    units = np.random.default_rng(1).normal(size=(4, 12))  # one number a unit and task
    previous, p = units[0], normalise(maps[0])
    for unit, raw in zip(units[1:], maps[1:], strict=True):
        c = normalise(raw)
        for j in range(12):
            if fusion == "adaptive":
                share = 1 / (1 + np.exp(-(c[j] - p[j]) / 0.25))
            else:
                old, new = p[j] > np.percentile(p, 80), c[j] > np.percentile(c, 80)
                share = {(1, 1): 0.3, (0, 1): 1.0, (1, 0): 0.0, (0, 0): 0.5}[int(old), int(new)]
            previous[j] = (1 - share) * previous[j] + share * unit[j]
        mixed = 0.7 * p + 0.3 * c
        p = (mixed - mixed.min()) / (mixed.max() - mixed.min())
    units = np.random.default_rng(1).normal(size=(4, 12))
    close((shares(*maps, fusion=fusion) * units).sum(axis=0), previous)


def test_joint_static_is_the_mean_over_the_tasks_it_is_important_to() -> None:
    maps = [[1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    got = shares(*maps, order="joint", quantile=0.5)
    third = [1 / 3] * 3
    close(got.T, [third, [1, 0, 0], [0, 1, 0], third, third, third])


def test_joint_adaptive_is_the_softmax_of_normalised_importance_over_tau() -> None:
    maps = random_maps(3)
    raised = np.exp(np.array([normalise(row) for row in maps]) / 0.25)
    close(shares(*maps, order="joint", fusion="adaptive"), raised / raised.sum(axis=0))


def test_half_favours_the_last_task_and_the_running_mean_none() -> None:
    flat = [[1.0, 1.0]] * 3
    close(shares(*flat)[:, 0], [1 / 4, 1 / 4, 1 / 2])
    close(shares(*flat, neither="running_mean")[:, 0], [1 / 3] * 3)


def test_the_running_mean_averages_what_identical_maps_find_important_to_nobody() -> None:
    maps = [random_maps(1)[0]] * 4
    got = shares(*maps, neither="running_mean")
    unimportant = maps[0] <= np.quantile(maps[0], 0.8)
    close(got[:, unimportant], np.full((4, int(unimportant.sum())), 1 / 4))
    # What is important to all goes on being shared by gamma.
    assert (
        pytest.approx(np.tile([0.343, 0.147, 0.21, 0.3], (int((~unimportant).sum()), 1)))
        == got[:, ~unimportant].T
    )


@pytest.mark.parametrize("order", ["sequential", "joint"])
@pytest.mark.parametrize("tau", [5e-324, 1e-300, 1e-4])
def test_a_tiny_tau_gives_the_whole_unit_to_one_task_without_a_warning(
    tau: float, order: str
) -> None:
    got = shares([0, 1, 0.5], [1, 0, 0.5], fusion="adaptive", order=order, tau=tau)
    close(got, [[0, 1, 0.5], [1, 0, 0.5]])


@pytest.mark.parametrize("settings", [{"tau": 0}, {"tau": -1}, {"tau": "nan"}, {"quantile": 80}])
def test_numbers_without_a_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadValue):
        klf(**settings)


def scores(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def vectors(*names: str) -> dict[str, tuple[int, ...]]:
    """The shapes of parameters of two entries each."""
    return dict.fromkeys(names, (2,))


def test_prepare_gives_each_parameter_the_shares_of_its_unit() -> None:
    maps = [scores(b=0.0, a=1.0), scores(a=0.0, b=5.0)]
    facts = klf(fusion="adaptive").prepare(maps, vectors("a", "b"))
    low, high = 1 / (1 + np.exp(4)), 1 / (1 + np.exp(-4))
    assert facts["a"] == pytest.approx([1.0, low])  # of what was there when it came
    assert facts["b"] == pytest.approx([1.0, high])
    deltas = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    merged = klf().merge(Stack(deltas, name="a", fact=facts["a"]))
    torch.testing.assert_close(merged, torch.tensor([high, low], dtype=torch.float32))


def test_parameters_in_no_map_are_averaged_and_do_not_enter_the_norm() -> None:
    maps = [scores(a=1.0, b=0.0), scores(a=0.0, b=5.0)]
    facts = klf().prepare(maps, vectors("a", "b", "buffer"))
    assert facts["buffer"] == [1.0, 0.5]
    assert klf(order="joint").prepare(maps, vectors("a", "b", "buffer"))["buffer"] == [0.5, 0.5]
    alone = klf().prepare(maps, vectors("a", "b"))
    assert {name: facts[name] for name in alone} == alone


def test_units_that_are_not_merged_do_not_enter_the_norm() -> None:
    maps = [scores(a=1.0, b=0.0), scores(a=0.0, b=5.0)]
    with_head = [{**one, **scores(head=1e9)} for one in maps]
    assert klf().prepare(with_head, vectors("a", "b")) == klf().prepare(maps, vectors("a", "b"))


def test_a_parameter_missing_from_one_map_is_an_error_that_names_it() -> None:
    with pytest.raises(NamesDiffer, match="map of task 2 lacks") as refusal:
        klf().prepare([scores(a=1.0, b=2.0), scores(a=1.0)], vectors("a", "b"))
    assert "where:    b\n" in str(refusal.value)


def test_maps_of_another_model_are_an_error() -> None:
    with pytest.raises(NamesDiffer, match="none of the model's parameters"):
        klf().prepare([scores(x=1.0), scores(x=1.0)], vectors("a", "b"))


def finer(tasks: int, *shape: int, seed: int = 0) -> list[torch.Tensor]:
    """Random scores of each task, of any shape."""
    draws = np.random.default_rng(seed)
    return [torch.from_numpy(draws.lognormal(sigma=2.0, size=shape)) for _ in range(tasks)]


@every
@pytest.mark.parametrize("by", ["row", "element"])
def test_units_of_a_finer_map_are_fused_one_by_one(words: dict[str, str], by: str) -> None:
    strategy = klf(**words)
    shapes = {"a": (4, 5), "b": (7,), "c": (3, 2, 2)}
    units = {n: shape if by == "element" else shape[:1] for n, shape in shapes.items()}
    maps: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for seed, (name, unit) in enumerate(units.items()):
        for found, values in zip(maps, finer(3, *unit, seed=seed), strict=True):
            found[name] = values
    facts = strategy.prepare(maps, shapes)
    table = np.array([np.concatenate([m[n].reshape(-1) for n in shapes]) for m in maps])
    of_unit = np.split(
        strategy.coefficients(table, [1] * table.shape[1]),
        np.cumsum([np.prod(u) for u in units.values()])[:-1],
        axis=1,
    )
    for (name, shape), shares in zip(shapes.items(), of_unit, strict=True):
        deltas = torch.from_numpy(np.random.default_rng(9).normal(size=(3, *shape)))
        each = shares.reshape(3, *units[name], *(1,) * (len(shape) - len(units[name])))
        stack = Stack(deltas, name=name, fact=facts[name], scores=tuple(m[name] for m in maps))
        merged = strategy.merge(stack)
        np.testing.assert_allclose(merged, (deltas.numpy() * each).sum(axis=0), rtol=1e-12)
        flat = deltas.reshape(3, -1)
        for start, stop in ((0, 2), (2, flat.shape[1])):
            part = dataclasses.replace(
                stack, deltas=flat[:, start:stop], start=start, shape=shape, whole=stack.whole
            )
            assert torch.equal(strategy.merge(part), merged.reshape(-1)[start:stop])


def test_the_threshold_of_many_units_is_numpys_quantile() -> None:
    for count in (1, 2, 6, 101, 5000):
        table = np.random.default_rng(count).lognormal(size=(1, count))
        parts = [Units(part) for part in np.array_split(table, 3, axis=1)]
        level = joint_levels(lambda parts=parts: parts, 1, 0.8).now[0]
        normed = level.norm(table[0])
        assert level.threshold == pytest.approx(float(np.quantile(normed, 0.8)), abs=1e-15)


def test_finer_maps_by_tensor_are_fused_by_the_mean_of_each_parameter() -> None:
    maps = [
        {"a": torch.tensor([1.0, 3.0]), "b": torch.zeros(2, 2)},
        {"a": torch.zeros(2), "b": torch.full((2, 2), 5.0)},
    ]
    coarse = [scores(a=2.0, b=0.0), scores(a=0.0, b=5.0)]
    names = vectors("a", "b")
    assert klf(units="tensor").prepare(maps, names) == klf().prepare(coarse, names)


def test_maps_of_other_units_are_an_error_that_names_the_parameter() -> None:
    with pytest.raises(BadValue, match="same units of every task") as refusal:
        klf().prepare([{"a": torch.ones(3)}, {"a": torch.ones(3, 2)}], {"a": (3, 2)})
    assert "where:    a\n" in str(refusal.value)


def test_what_is_fused_by_rows_keeps_no_state() -> None:
    with pytest.raises(BadValue, match="cannot be added later"):
        klf().keeps(TensorInfo("F32", (3, 2)), [torch.ones(3)])


def test_means_of_finer_units_are_the_same_for_any_number_of_threads() -> None:
    draws = torch.Generator().manual_seed(0)
    maps = [{"w": torch.rand(1 << 20, generator=draws) ** 8} for _ in range(2)]
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            found.append(means(maps, ["w"]).tolist())
    finally:
        torch.set_num_threads(threads)
    assert found == found[:1] * 4
    assert means([{"w": torch.zeros(0, 3)}], ["w"]).tolist() == [[0.0]]
