"""Directions without strength have no part in what the SVD family merges."""

import pytest
import torch
from torch import Tensor

from deltakit.strategies import Stack, get
from tests.strategies.test_matrix import SPECTRA, matrix


def low_rank(rows: int, cols: int, rank: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=draws) for n in (rows, cols))
    return left @ right.T


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("delta", [torch.diag(torch.tensor([4.0, 0, 0, 0])), low_rank(6, 9, 1, 0)])
def test_tsv_of_a_task_beside_one_that_changes_nothing_is_that_task(
    delta: Tensor, first: bool
) -> None:
    pair = [delta, delta * 0]
    merged = get("tsv").merge(Stack(torch.stack(pair if first else pair[::-1])))
    torch.testing.assert_close(merged, delta, rtol=1e-5, atol=1e-5)


def test_tsv_keeps_apart_tasks_of_a_lower_rank_than_they_may_have() -> None:
    eye = torch.eye(8)
    one, other = 4.0 * torch.outer(eye[0], eye[1]), 3.0 * torch.outer(eye[2], eye[0])
    merged = get("tsv").merge(Stack(torch.stack([one, other])))
    torch.testing.assert_close(merged, one + other)


def test_tsv_of_tasks_that_change_nothing_is_nothing() -> None:
    assert not get("tsv").merge(Stack(torch.zeros(2, 3, 4))).any()


@pytest.mark.parametrize("on", ["vectors", "coordinates"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_knots_does_not_see_a_task_that_changes_nothing(on: str, at: int) -> None:
    deltas = [low_rank(24, 40, 40, seed) for seed in (1, 2)]
    knots = get("knots", {"density": 0.5, "on": on})
    alone = knots.merge(Stack(torch.stack(deltas)))
    deltas.insert(at, torch.zeros(24, 40))
    merged = knots.merge(Stack(torch.stack(deltas)))
    assert (merged - alone).norm() < 1e-4 * alone.norm()


@pytest.mark.parametrize("name", ["one above all", "seven decades", "few"])
def test_core_space_loses_nothing_above_rounding(name: str) -> None:
    delta = matrix(SPECTRA[name])
    merged = get("core_space", {"density": 1}).merge(Stack(delta[None]))
    lost = torch.linalg.matrix_norm(merged - delta, 2)
    assert lost < 1e-5 * torch.linalg.matrix_norm(delta, 2)


def test_core_space_of_tasks_that_change_nothing_is_nothing() -> None:
    assert not get("core_space").merge(Stack(torch.zeros(2, 3, 4))).any()
