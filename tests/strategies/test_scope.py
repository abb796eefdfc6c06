"""A strategy whose scope is the whole model merges it as one long tensor."""

from typing import Any

import numpy as np
import pytest
import torch

from deltakit.strategies import Stack, get
from tests.strategies import reference
from tests.strategies.stacks import merge_in_pieces, model_of, random_deltas, whole_of

SHAPES = {"a": (6, 9), "b": (20,), "c": ()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ties", {"density": 0.3}),
        ("localize_stitch", {"density": 0.3}),
        ("pcb", {"r": 0.3}),
        ("emr", {"task": "task2"}),
    ],
)
def test_the_model_in_parts_is_the_model_in_one(name: str, settings: dict[str, Any]) -> None:
    parts = {n: random_deltas(3, *shape, seed=ord(n)) for n, shape in SHAPES.items()}
    joined = torch.cat([parts[n].reshape(3, -1) for n in sorted(parts)], dim=1)
    at_once = get(name, {**settings, "scope": "tensor"}).merge(Stack(joined))
    model, start, merged = model_of(parts), 0, []
    strategy = get(name, {**settings, "scope": "global"})
    assert strategy.looks == "model"
    for part in sorted(parts):
        deltas = parts[part]
        stack = Stack(deltas, name=part, whole=whole_of(deltas), model=model, model_start=start)
        merged.append(merge_in_pieces(strategy, stack, [7]).reshape(-1))
        start += deltas[0].numel()
    assert torch.equal(torch.cat(merged), at_once)


def test_knots_on_coordinates_trims_what_is_weak_before_what_is_strong() -> None:
    deltas = np.random.default_rng(0).normal(size=(3, 18, 40))
    u, s, vh = np.linalg.svd(np.concatenate(list(deltas), 1), full_matrices=False)
    parts = np.stack(np.split(s[:, None] * vh, 3, axis=1))
    expected = u @ reference.elect(reference.each_top(parts, 0.2))
    merged = get("knots", {"on": "coordinates"}).merge(Stack(torch.from_numpy(deltas)))
    np.testing.assert_allclose(merged.numpy(), expected, atol=1e-9)
