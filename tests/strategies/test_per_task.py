"""A mask may have settings of its own for single tasks."""

import pytest
import torch

from deltakit.errors import BadValue
from deltakit.strategies import Method, PerTask, Stack, get, masks
from tests.strategies.stacks import merge_in_pieces, random_deltas, whole_of

TASKS = ("a", "b", "c")


def of_b(name: str, own: dict[str, float], b: dict[str, float]) -> PerTask:
    return PerTask(masks.get(name, own), (("b", masks.get(name, b)),))


@pytest.mark.parametrize(
    ("name", "own", "b"),
    [
        ("magnitude", {"density": 0.5}, {"density": 0.2}),
        ("random", {"density": 0.5}, {"density": 1.0}),
        ("outliers", {"density": 0.5, "gamma": 0.1}, {"density": 1.0, "gamma": 0.0}),
        ("rank", {"density": 0.5, "eps": 0.1}, {"density": 1.0, "eps": 0.0}),
    ],
)
def test_each_task_is_masked_as_a_mask_for_all_would_mask_it(
    name: str, own: dict[str, float], b: dict[str, float]
) -> None:
    deltas = random_deltas(3, 12, 7, seed=1)
    masked = of_b(name, own, b).apply(Stack(deltas, tasks=TASKS))
    for row, settings in ((0, own), (1, b), (2, own)):
        alone = masks.get(name, settings).apply(Stack(deltas, tasks=TASKS))
        assert torch.equal(masked[row], alone[row])
    assert name == "magnitude" or torch.equal(masked[1], deltas[1])  # at density 1 all of it


def test_it_is_the_same_in_pieces() -> None:
    deltas = random_deltas(3, 40, 7, seed=2)
    mask = of_b("magnitude", {"density": 0.5}, {"density": 0.2})
    method = Method(get("ties", {"density": 1}), mask)
    stack = Stack(deltas, tasks=TASKS, whole=whole_of(deltas))
    assert torch.equal(merge_in_pieces(method, stack, [1, 99, 180]), method.merge(stack))


def test_masks_that_must_not_collide_are_one_for_all_tasks() -> None:
    excluding = {"n": 2, "m": 4, "taken": "excluded"}
    with pytest.raises(BadValue, match="none has settings of its own") as error:
        of_b("nm", excluding, {**excluding, "n": 1})
    assert "taken=shared" in str(error.value)
    of_b("nm", {"n": 2}, {"n": 1})


def test_it_needs_and_allows_what_its_masks_do() -> None:
    trims = of_b("magnitude", {"density": 0.5}, {"density": 0.2})
    assert (trims.looks, trims.unit, trims.streams) == ("tensor", "element", True)
    by_map = PerTask(masks.get("magnitude"), (("b", masks.get("importance", {"by": "map"})),))
    assert by_map.needs_importance
    assert not trims.needs_importance
    draws = of_b("random", {"density": 0.5}, {"density": 0.5, "rescale": "inverse"})
    assert draws.rescales_draws
