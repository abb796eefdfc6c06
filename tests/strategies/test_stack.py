import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from deltakit.cut import Cut
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.rng import Draws
from deltakit.strategies import Stack, Whole, get
from deltakit.strategies._whole import Together
from deltakit.trim import find_cut
from tests.strategies.stacks import merge_in_pieces, pieces, random_deltas, whole_of


def test_weights_and_tasks_have_defaults_and_a_parameter_is_its_own_whole() -> None:
    stack = Stack(torch.tensor([[4.0, -1.0], [2.0, 5.0]]))
    assert stack.weights == (1.0, 1.0)
    assert stack.tasks == ("task1", "task2")
    assert stack.whole is stack.model
    assert stack.whole is not None
    assert stack.whole.numel == 2


@pytest.mark.parametrize(
    ("density", "kept"), [(1e-9, 1), (0.25, 1), (0.4, 2), (0.6, 2), (0.8, 3), (1.0, 4)]
)
def test_trimming_keeps_the_nearest_number_and_at_least_one(density: float, kept: int) -> None:
    trimmed = Stack(torch.tensor([[1.0, -4.0, 3.0, -2.0]])).trimmed(density)
    assert int(trimmed.count_nonzero()) == kept
    assert float(trimmed.abs().max()) == 4.0


def test_of_equal_magnitudes_the_lowest_flat_index_stays() -> None:
    deltas = torch.tensor([[[1.0, -2.0], [2.0, -2.0]]])
    assert Stack(deltas).trimmed(0.5).tolist() == [[[0.0, -2.0], [2.0, 0.0]]]


def test_trimming_equals_a_stable_sort() -> None:
    deltas = random_deltas(2, 500)
    for density in (0.01, 0.2, 0.77):
        trimmed = Stack(deltas, whole=whole_of(deltas)).trimmed(density)
        for delta, row in zip(deltas.numpy(), trimmed.numpy(), strict=True):
            order = np.argsort(-np.abs(delta), kind="stable")[round(density * 500) :]
            expected = delta.copy()
            expected[order] = 0.0
            np.testing.assert_array_equal(row, expected)


def test_masks_are_those_of_seed_task_name_and_flat_index() -> None:
    stack = Stack(torch.zeros(2, 3, 4), tasks=("a", "b"), name="w", seed=6, start=5)
    drawn = stack.drawn(0.5)
    for mask, task in zip(drawn, stack.tasks, strict=True):
        expected = Draws(6, task, "w").keep(5, 17, 0.5)
        assert torch.equal(mask, torch.from_numpy(expected).reshape(3, 4))


def test_a_total_is_summed_in_double_precision_and_once() -> None:
    reads = []
    values = torch.full((1000,), 0.1)

    def blocks(expert: int) -> list[torch.Tensor]:
        reads.append(expert)
        return list(values.split(7))

    whole = Whole(1000, blocks)
    for _ in range(3):
        assert whole.total("sum", 1, lambda block, _: block) == pytest.approx(
            1000 * float(np.float32(0.1)), rel=1e-14
        )
    assert whole.total("first 10", 1, lambda block, start: block * (start < 7)) == pytest.approx(
        7 * float(np.float32(0.1)), rel=1e-14
    )
    assert reads == [1, 1]


def in_threads(tasks: list[Callable[[], object]]) -> list[object]:
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [done.result(timeout=20) for done in [pool.submit(task) for task in tasks]]


def test_threads_that_ask_for_one_fact_find_it_once() -> None:
    deltas, reads = random_deltas(1, 300), []
    all_asked = threading.Barrier(4)

    def blocks(expert: int) -> list[torch.Tensor]:
        reads.append(expert)
        threading.Event().wait(0.05)  # time for another thread to come in, if it could
        return [deltas[expert]]

    whole = Whole(300, blocks)

    def ask() -> object:
        all_asked.wait(timeout=10)
        return whole.total("l1", 0, lambda block, _: block.abs())

    assert len(set(in_threads([ask] * 4))) == 1
    assert reads == [0]


def test_threads_that_ask_for_different_facts_do_not_wait_for_each_other() -> None:
    deltas = random_deltas(2, 300)
    both_read = threading.Barrier(2)  # passed only while both experts are being read

    def blocks(expert: int) -> list[torch.Tensor]:
        both_read.wait(timeout=10)
        return [deltas[expert]]

    whole = Whole(300, blocks)
    totals = in_threads(
        [
            lambda: whole.total("l1", 0, lambda block, _: block.abs()),
            lambda: whole.total("l1", 1, lambda block, _: block.abs()),
        ]
    )
    assert totals == [float(delta.abs().double().sum()) for delta in deltas]


def test_a_fact_that_failed_is_looked_for_again() -> None:
    faults = [OSError("unreadable")]

    def blocks(_: int) -> list[torch.Tensor]:
        if faults:
            raise faults.pop()
        return [torch.ones(3)]

    whole = Whole(3, blocks)
    with pytest.raises(OSError, match="unreadable"):
        whole.total("sum", 0, lambda block, _: block)
    assert whole.total("sum", 0, lambda block, _: block) == 3.0


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
def test_threads_that_share_a_parameter_give_the_bits_of_one_thread(name: str) -> None:
    deltas = random_deltas(3, 5000)
    strategy = get(name, {"rescale": "l1"} if name == "dare_ties" else {})
    expected = strategy.merge(Stack(deltas, name="w", whole=whole_of(deltas, 512)))
    stack = Stack(deltas, name="w", whole=whole_of(deltas, 512))
    for merged in in_threads([lambda: merge_in_pieces(strategy, stack, [700])] * 4):
        assert torch.equal(merged, expected)  # type: ignore[arg-type]


def test_pieces_cover_every_entry_once() -> None:
    assert list(pieces(10, [3, 4])) == [(0, 3), (3, 7), (7, 10)]
    assert list(pieces(3, [5, 1])) == [(0, 3)]
    assert list(pieces(0, [2])) == []


def test_cuts_of_a_few_experts_are_found_in_one_reading_and_those_of_sparse_ones_in_none() -> None:
    deltas, reads = random_deltas(6, 300), []
    deltas[5, 60:] = 0.0
    lazy = [[LazyDelta(part) for part in delta.split(70)] for delta in deltas]

    def blocks(experts: Sequence[int], _: int = 0) -> list[list[LazyDelta]]:
        reads.append(list(experts))
        return [[lazy[expert][number] for expert in experts] for number in range(5)]

    together = Together(6, blocks, blocks, lambda expert: 60 if expert == 5 else 300)
    whole = Whole(300, lambda expert: deltas[expert].split(70), together=together)
    found = [whole.cut(expert, 0.2) for expert in range(6)]
    assert found[:5] == [find_cut(lambda d=d: [d], 60) for d in deltas[:5]]  # type: ignore[misc]
    assert reads == [[0, 1, 2, 3], [4]]  # of so few entries no sample is read
    assert found[5] == Cut.none()
    cut = LazyDeltas.of(deltas).trimmed(found, 0)
    assert torch.equal(cut.tensor[5], deltas[5])
    assert [int(row.count_nonzero()) for row in cut.tensor[:5]] == [60] * 5
