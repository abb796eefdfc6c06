"""The papers' formulas on numbers worked out by hand, one table for all strategies."""

from typing import Any

import numpy as np
import pytest
import torch

from deltakit.strategies import Stack, get, masks
from deltakit.strategies.masks.rank import Rank

TIES = [[4, -1, 3, 0.5, -2], [-2, 5, 1, -4, -3], [3, -6, 0.2, 1, -1]]
ARC = [[3, 0], [0, 4]]
PAIR = [[4, -1, 2, 3], [2, 3, -1, 1]]
TALL = [[4, 1, -2, 0.5], [1, -1, -2, 3]]
SCE = [[4, 0, 2, 1], [-2, 0, 4, 1]]
CABS = [[5, -1, 2, 4, 3, -6, 1, 0.5], [7, 3, -2, 1, 2, -1, 4, -5]]
ISO = [[[4, 0], [0, 0]], [[0, 1.2], [0, 1.6]]]
OPCM = [[2.702191, 1.801461], [2.702191, 0.900730]]
TENTHS = [[0.1 * i for i in range(1, 11)]]

# strategy, settings, deltas, weights, merged
TOYS: list[tuple[str, dict[str, Any], Any, tuple[float, ...], Any]] = [
    ("task_arithmetic", {}, [[1, 2], [3, -2]], (0.3, 0.3), [1.2, 0]),
    ("average", {}, [[1, 2], [3, -2]], (), [2, 0]),
    ("ties", {"density": 0.6}, TIES, (), [3.5, -6, 3, -4, -2.5]),
    ("ties", {"density": 0.6, "combine": "sum"}, TIES, (), [7, -6, 3, -4, -5]),
    ("slerp", {"t": 0.5}, ARC, (), [2.121320, 2.828427]),
    ("slerp", {"t": 0.25}, ARC, (), [2.771638, 1.530734]),
    ("nuslerp", {}, ARC, (1.0, 3.0), [1.148050, 3.695518]),
    ("multislerp", {}, ARC, (), [2.474874, 2.474874]),
    ("karcher", {}, ARC, (), [2.474874, 2.474874]),
    ("breadcrumbs", {"density": 0.6, "gamma": 0.2}, TENTHS, (), [0, 0, *TENTHS[0][2:8], 0, 0]),
    ("breadcrumbs", {"density": 0.6}, TENTHS, (), [0, 0, 0, 0, *TENTHS[0][4:]]),
    ("magmax", {}, PAIR, (), [4, 3, 2, 3]),
    ("magmax", {}, [[2, -3], [-2, 3]], (), [-2, 3]),
    ("emr", {}, PAIR, (), [4, 3, 2, 3]),
    ("emr", {"task": "task1"}, PAIR, (), [40 / 9, 0, 20 / 9, 30 / 9]),
    ("emr", {"task": "task2"}, PAIR, (), [2.8, 2.1, 0, 2.1]),
    ("consensus", {}, TALL, (), [0, 0, -4, 0]),
    ("consensus", {"k": 1}, TALL, (), [5, 0, -4, 3.5]),
    ("sce", {}, SCE, (), [4, 0, 3, 1]),
    ("sce", {"topk": 0.5}, SCE, (), [4, 0, 0, 0]),
    ("cabs", {}, CABS, (), [5, 3, -2, 4, 3, -6, 4, -5]),
    ("ram", {}, [[2, 0, 4, 0], [0, 3, 2, 0]], (), [2, 3, 3, 0]),
    ("model_stock", {}, [[1, 0], [0.6, 0.8]], (), [0.6, 0.3]),
    ("opcm", {}, [[[3, 0], [0, 1]], [[1, 2], [3, 4]]], (), OPCM),
    ("iso_c", {}, ISO, (), [[2.8, 0.6], [-0.6, 2.8]]),
    ("tsv", {"r": 1}, ISO, (), [[3.794733, 0.632456], [-1.264911, 1.897367]]),
    ("star", {"eta": 0.4}, [np.diag([6, 3, 1])], (), np.diag([10, 0, 0])),
    ("star", {"eta": 0.7}, [np.diag([6, 3, 1])], (), np.diag([20 / 3, 10 / 3, 0])),
    ("localize_stitch", {"density": 0.4}, TIES, (), [3.5, -0.5, 3, -4, 0]),
]


@pytest.mark.parametrize(
    ("name", "settings", "deltas", "weights", "expected"),
    TOYS,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_by_hand(
    name: str, settings: dict[str, Any], deltas: Any, weights: tuple[float, ...], expected: Any
) -> None:
    stack = Stack(torch.from_numpy(np.array(deltas, dtype=np.float32)), weights)
    merged = get(name, settings).merge(stack)
    np.testing.assert_allclose(merged.numpy(), np.array(expected), rtol=0, atol=1e-6)


def test_model_stock_of_an_angle_known() -> None:
    stack = Stack(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    assert get("model_stock").ratio(stack) == pytest.approx(0.75, abs=1e-6)  # type: ignore[attr-defined]


def test_the_rank_in_the_row_sets_the_probability() -> None:
    stack = Stack(torch.tensor([[[0.1, -0.4, 0.2, 0.3], [9.0, 1.0, -2.0, 3.0]]]))
    found = Rank(density=0.5, eps=0.2).densities(stack)[0].numpy()
    first, second = [0.3, 0.7, 0.433333, 0.566667], [0.7, 0.3, 0.433333, 0.566667]
    np.testing.assert_allclose(found, [first, second], atol=1e-6)


def test_a_small_tensor_has_no_outlier_and_a_large_one_has() -> None:
    for numel, dropped in ((99, 0), (100, 1), (250, 2)):
        deltas = torch.arange(1.0, numel + 1)[None]
        masked = masks.get("outliers", {"density": 0.99}).apply(Stack(deltas))
        assert int((masked[0, numel - 5 :] == 0).sum()) == dropped, numel


@pytest.mark.parametrize(
    ("weights", "budget", "expected"),
    [
        ([1, 2, 2, 4], 2, [0.2222, 0.4444, 0.4444, 0.8889]),
        ([1, 1, 2, 12], 2, [0.25, 0.25, 0.5, 1]),
    ],
)
def test_importance_fills_its_budget(
    weights: list[float], budget: float, expected: list[float]
) -> None:
    importance = masks.get("importance", {"density": budget / 4})
    found = importance.densities(Stack(torch.tensor([weights], dtype=torch.float32)))  # type: ignore[attr-defined]
    np.testing.assert_allclose(found[0].numpy(), expected, atol=5e-5)


def test_importance_by_a_map() -> None:
    scores = (torch.tensor([1.0, 4.0, 1.0, 1.0]),)
    importance = masks.get("importance", {"density": 0.5, "by": "map"})
    found = importance.densities(Stack(torch.tensor([[1.0, 1.0, 2.0, 4.0]]), scores=scores))  # type: ignore[attr-defined]
    np.testing.assert_allclose(found[0].numpy(), [2 / 9, 4 / 9, 4 / 9, 8 / 9], atol=1e-6)


SCORED: list[tuple[str, dict[str, Any], Any, Any, Any]] = [
    ("fisher", {}, [[1, 2], [3, 6]], [[1, 3], [1, 1]], [2, 3]),
    ("ewc", {"l": 0.5}, [[0, 0], [1, 3]], [[2, 1], [1, 4]], [0.5, 8 / 3]),
    ("importance_weighted", {}, [[1, 2], [3, 6]], [[1, 0], [3, 0]], [2.5, 4]),
    ("importance_weighted", {"by": "softmax"}, [[0.0], [1.0]], [[0.0], [1.0]], [0.731059]),
]


@pytest.mark.parametrize(("name", "settings", "deltas", "scores", "expected"), SCORED)
def test_by_hand_with_importance(
    name: str, settings: dict[str, Any], deltas: Any, scores: Any, expected: Any
) -> None:
    given = tuple(torch.tensor(row, dtype=torch.float32) for row in scores)
    stack = Stack(torch.tensor(deltas, dtype=torch.float32), scores=given)
    merged = get(name, settings).merge(stack)
    np.testing.assert_allclose(merged.numpy(), np.array(expected), rtol=0, atol=4e-6)


def test_regmean_by_hand() -> None:
    deltas = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 1.0], [2.0, 0.0]]])
    grams = (torch.diag(torch.tensor([1.0, 3.0])), torch.eye(2))
    merged = get("regmean").merge(Stack(deltas, scores=grams))
    expected = torch.tensor([[2.0, 0.25], [1.0, 0.75]])
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)
    shared = (torch.tensor([[2.0, 1.0], [1.0, 2.0]]),) * 2
    merged = get("regmean").merge(Stack(deltas, scores=shared))
    torch.testing.assert_close(merged, deltas.mean(dim=0))
    dead = (torch.diag(torch.tensor([1.0, 0.0])),) * 2  # an input no task has: the mean there
    merged = get("regmean").merge(Stack(deltas, scores=dead))
    torch.testing.assert_close(merged, deltas.mean(dim=0))


def test_one_score_a_row_or_a_tensor_is_every_entrys() -> None:
    deltas = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    by_row = (torch.tensor([1.0, 0.0]), torch.tensor([3.0, 2.0]))
    merged = get("importance_weighted").merge(Stack(deltas, scores=by_row))
    torch.testing.assert_close(merged, torch.tensor([[4.0, 5.0], [7.0, 8.0]]))
    whole = (torch.tensor(1.0), torch.tensor([3.0]))
    merged = get("importance_weighted").merge(Stack(deltas, scores=whole))
    torch.testing.assert_close(merged, deltas[0] + 3.0)
