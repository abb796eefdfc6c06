"""What makes importance bite in klf: within=kind, share=parameters, contrast."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltakit.errors import BadValue
from deltakit.strategies import Stack, get
from deltakit.strategies._klf_contrast import contrasts
from deltakit.strategies._klf_levels import Units, level_of
from deltakit.strategies.klf import Klf

OPTIONS: list[dict[str, Any]] = [
    {"within": "kind"},
    {"share": "parameters"},
    {"contrast": True},
    {"within": "kind", "share": "parameters", "contrast": True},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids="-".join)
each_fusion = pytest.mark.parametrize("fusion", ["static", "adaptive"])
SHAPES = {
    "layers.0.q.weight": (4, 5),
    "layers.0.norm.weight": (5,),
    "layers.1.q.weight": (4, 5),
    "layers.1.norm.weight": (5,),
    "embed.weight": (7, 2, 2),
}


def klf(**settings: Any) -> Klf:
    strategy = get("klf", settings)
    assert isinstance(strategy, Klf)
    return strategy


def shares(*maps: Any, sizes: Sequence[int] | None = None, **settings: Any) -> np.ndarray:
    """Each task's share of each unit: (tasks, units)."""
    table = np.array(maps, dtype=np.float64)
    return klf(**settings).coefficients(table, sizes or [1] * table.shape[1])


def prepared(maps: Sequence[Any], **settings: Any) -> Mapping[str, Any]:
    """The facts of parameters called as `maps[0]` says, of one entry each."""
    scored = [{n: torch.tensor(float(s)) for n, s in task.items()} for task in maps]
    return klf(**settings).prepare(scored, dict.fromkeys(maps[0], (1,)))


def random_map(seed: int, by: str = "tensor") -> dict[str, torch.Tensor]:
    draws = np.random.default_rng(seed)
    units = {"tensor": lambda s: (), "row": lambda s: s[:1], "element": lambda s: s}[by]
    return {n: torch.from_numpy(np.array(draws.lognormal(sigma=2.0, size=units(s))))
            for n, s in SHAPES.items()}  # fmt: skip


# within


def test_a_kind_is_normalised_and_ranked_by_itself_by_hand() -> None:
    # The five units of the paper's case, in five layers, beside a norm that dwarfs them.
    p, c = [0, 0.3, 1, 0.9, 0.2], np.array([2, 10, 4, 1, 6]) * 1e-6
    before = {f"layers.{i}.w": s for i, s in enumerate(p)} | {f"layers.{i}.n": 9.0 for i in (0, 1)}
    now = {f"layers.{i}.w": s for i, s in enumerate(c)} | {"layers.0.n": 7.0, "layers.1.n": 8.0}
    got = prepared([before, now], within="kind")
    np.testing.assert_allclose([got[f"layers.{i}.w"][1] for i in range(5)], [0.5, 1, 0, 0.5, 0.5])
    # The norms mattered alike before; now the second does.
    assert got["layers.0.n"][1] == 0.5
    assert got["layers.1.n"][1] == 1.0
    alone = prepared([before, now])
    assert [alone[f"layers.{i}.w"][1] for i in range(5)] == [0.5] * 5


def test_a_kind_of_one_unit_is_important_to_nobody() -> None:
    got = prepared([{"embed": 5.0, "layers.0.w": 1.0}, {"embed": 9.0, "layers.0.w": 0.0}],
                   within="kind")  # fmt: skip
    assert got == {"embed": [1.0, 0.5], "layers.0.w": [1.0, 0.5]}


def test_one_kind_is_the_model() -> None:
    maps = [random_map(seed) for seed in range(3)]
    maps = [{f"layers.{i}.w": s for i, s in enumerate(found.values())} for found in maps]
    shapes = dict.fromkeys(maps[0], (3,))
    assert klf(within="kind").prepare(maps, shapes) == klf().prepare(maps, shapes)


# share


def test_the_top_fifth_of_the_parameters_by_hand() -> None:
    # Ten entries: eight in the matrix. The quantile .8 is at 7.2 of 0 1 2 2 2 2 2 2 2 2: 2.
    sizes, c = [1, 1, 8], [0.0, 1.0, 2.0]
    assert shares([0] * 3, c, sizes=sizes, share="parameters")[1].tolist() == [0.5] * 3
    # Of the units it is 1.6, which the matrix is above.
    assert shares([0] * 3, c, sizes=sizes)[1].tolist() == [0.5, 0.5, 1.0]
    # The matrix lowest: 0 0 0 0 0 0 0 0 1 2, at 7.2 it is .2, halved by the norm.
    level = level_of(lambda: [Units(np.array([1.0, 2.0, 0.0]), np.array(sizes))], 0.8)
    assert level.threshold == pytest.approx(0.1)
    assert shares([0] * 3, [1, 2, 0], sizes=sizes, share="parameters")[1].tolist() == [1, 1, 0.5]


@given(
    units=st.lists(
        st.tuples(st.sampled_from([0.0, 1e-300, 1.0, 1.5, 7.0, 1e300]), st.integers(0, 9)),
        min_size=1,
        max_size=30,
    ),
    quantile=st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]),
    cut=st.integers(0, 30),
)
def test_the_threshold_is_numpys_quantile_of_each_score_repeated_once_an_entry(
    units: list[tuple[float, int]], quantile: float, cut: int
) -> None:
    values, sizes = np.array([s for s, _ in units]), np.array([n for _, n in units])
    parts = [Units(values[:cut], sizes[:cut]), Units(values[cut:], sizes[cut:])]
    level = level_of(lambda: parts, quantile)
    repeated = np.repeat(level.norm(values), sizes)
    expected = np.quantile(repeated, quantile) if len(repeated) else math.inf
    assert level.threshold == pytest.approx(float(expected), rel=1e-14, abs=1e-300)


def test_units_of_one_entry_each_are_as_without() -> None:
    maps = [random_map(seed, "element") for seed in range(3)]
    one, other = (klf(share=word).prepare(maps, SHAPES) for word in ("units", "parameters"))
    assert one == other


@given(seed=st.integers(0, 99), quantile=st.sampled_from([0.5, 0.8, 0.9]))
def test_no_more_than_the_share_of_the_parameters_is_important(seed: int, quantile: float) -> None:
    draws = np.random.default_rng(seed)
    sizes = draws.integers(1, 1000, size=20)
    scores = draws.lognormal(sigma=2.0, size=20)
    got = shares([0] * 20, scores, sizes=list(sizes), share="parameters", quantile=quantile)[1]
    assert sizes[got == 1.0].sum() <= (1 - quantile) * sizes.sum() + 1


# contrast


def test_contrast_by_hand() -> None:
    first, second = [1.0, 2.0, 0.0], [30.0, 20.0, 0.0]
    ratios = contrasts(np.array([first, second]), [2.0, 30.0])
    np.testing.assert_allclose(ratios, [[2 / 3, 1.2, 1], [4 / 3, 0.8, 1]], atol=2e-6)
    # p = 0 1 .625, c = 1 0 .375; important above .85 and .75.
    assert shares(first, second, contrast=True)[1].tolist() == [1.0, 0.0, 0.5]
    got = shares(first, second, contrast=True, fusion="adaptive")[1]
    np.testing.assert_allclose(got, [0.982014, 0.017986, 0.268941], atol=1e-5)


@each_fusion
@pytest.mark.parametrize("order", ["sequential", "joint"])
@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-9])
def test_tasks_of_one_map_up_to_a_factor_are_averaged(
    fusion: str, order: str, factor: float
) -> None:
    found = np.random.default_rng(0).lognormal(sigma=3.0, size=50).astype(np.float32)
    maps = [found, found * np.float32(factor), found]
    got = shares(*maps, fusion=fusion, order=order, neither="running_mean", contrast=True)
    expected = [1 / 3] * 3 if order == "joint" or fusion == "static" else [1 / 4, 1 / 4, 1 / 2]
    np.testing.assert_allclose(got.T, np.tile(expected, (50, 1)), atol=1e-12)


def test_a_task_meets_the_contrasts_to_the_mean_over_the_tasks_so_far() -> None:
    maps = np.random.default_rng(2).lognormal(size=(3, 6))
    scaled = maps / maps.max(axis=1, keepdims=True)
    ratio = scaled / scaled.mean(axis=0)

    def norm(row: np.ndarray) -> np.ndarray:
        return (row - row.min()) / (row.max() - row.min())

    p = norm(0.7 * norm(ratio[0]) + 0.3 * norm(ratio[1]))
    expected = 1 / (1 + np.exp((p - norm(ratio[2])) / 0.25))
    got = klf(contrast=True, fusion="adaptive").arriving(maps, [1] * 6)[2]
    np.testing.assert_allclose(got, expected, atol=1e-4)


# all of them


@each_option
@each_fusion
@pytest.mark.parametrize("order", ["sequential", "joint"])
@pytest.mark.parametrize("level", [0.0, 3e-9])
def test_constant_maps_weigh_all_alike(
    options: dict[str, Any], fusion: str, order: str, level: float
) -> None:
    flat = dict.fromkeys(SHAPES, torch.tensor(level))
    facts = klf(**options, fusion=fusion, order=order).prepare([flat, flat], SHAPES)
    assert all(shares[1] == 0.5 for shares in facts.values())


@each_option
@each_fusion
def test_joint_does_not_depend_on_the_order(options: dict[str, Any], fusion: str) -> None:
    maps, order = [random_map(seed) for seed in range(4)], [2, 0, 3, 1]
    strategy = klf(**options, fusion=fusion, order="joint")
    one = strategy.prepare(maps, SHAPES)
    other = strategy.prepare([maps[i] for i in order], SHAPES)
    for name in SHAPES:
        assert other[name] == pytest.approx([one[name][i] for i in order], abs=1e-15)


@each_option
@each_fusion
def test_a_later_task_changes_no_share_of_an_earlier_one(
    options: dict[str, Any], fusion: str
) -> None:
    maps = [random_map(seed) for seed in range(4)]
    strategy = klf(**options, fusion=fusion)
    four, three = (strategy.prepare(maps[:k], SHAPES) for k in (4, 3))
    assert {name: shares[:3] for name, shares in four.items()} == three


@each_option
def test_a_task_alone_is_itself_exactly(options: dict[str, Any]) -> None:
    deltas = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 4, 5)))
    for by in ("tensor", "row", "element"):
        found = random_map(0, by)
        name = "layers.1.q.weight"
        fact = klf(**options).prepare([found], SHAPES)[name]
        stack = Stack(deltas, name=name, fact=fact, scores=(found[name],))
        assert torch.equal(klf(**options).merge(stack), deltas[0])


@each_option
@each_fusion
@pytest.mark.parametrize("order", ["sequential", "joint"])
@pytest.mark.parametrize("by", ["row", "element"])
def test_finer_units_are_fused_as_a_table_of_them_is_in_any_block(
    options: dict[str, Any], fusion: str, order: str, by: str
) -> None:
    strategy = klf(**options, fusion=fusion, order=order)
    maps = [random_map(seed, by) for seed in range(3)]
    facts = strategy.prepare(maps, SHAPES)
    for names in strategy.compared(list(SHAPES)):
        table = np.array([np.concatenate([m[n].reshape(-1) for n in names]) for m in maps])
        units = [maps[0][n].numel() for n in names]
        sizes = np.repeat([math.prod(SHAPES[n]) // maps[0][n].numel() for n in names], units)
        of_name = np.split(strategy.coefficients(table, list(sizes)), np.cumsum(units)[:-1], axis=1)
        for name, found in zip(names, of_name, strict=True):
            shape, scores = SHAPES[name], tuple(m[name] for m in maps)
            each = found.reshape(3, *scores[0].shape, *(1,) * (len(shape) - scores[0].dim()))
            deltas = torch.from_numpy(np.random.default_rng(9).normal(size=(3, *shape)))
            stack = Stack(deltas, name=name, fact=facts[name], scores=scores)
            merged = strategy.merge(stack)
            np.testing.assert_allclose(merged, (deltas.numpy() * each).sum(axis=0), rtol=1e-11)
            flat = deltas.reshape(3, -1)
            parts = [
                dataclasses.replace(stack, deltas=flat[:, a:b], start=a, shape=shape)
                for a, b in ((0, 2), (2, 3), (3, flat.shape[1]))
            ]
            assert torch.equal(
                torch.cat([strategy.merge(part) for part in parts]), merged.reshape(-1)
            )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"within": "kinds"}, "did you mean 'kind'"),
        ({"share": "parameter"}, "did you mean 'parameters'"),
        ({"contrast": "maybe"}, "contrast cannot be 'maybe'"),
    ],
)
def test_words_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadValue, match=words):
        klf(**settings)
