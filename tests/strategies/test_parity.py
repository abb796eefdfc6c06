"""Every strategy against the authors' formula in numpy, and the table of it that the docs show."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltakit.strategies import Stack, find, get, names
from tests.strategies.reference import REFERENCES

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+?) \|", PAGE, re.MULTILINE))
ELSEWHERE = {"klf"}  # hand-computed cases and parity of their own
SHAPES = [(24, 24), (18, 40), (40, 18)]


def known(experts: int, shape: tuple[int, int], seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Deltas with something in common, and all that a method may know beside them."""
    drawn = np.random.default_rng(seed)
    deltas = drawn.normal(size=(experts, *shape)) + 0.5 * drawn.normal(size=shape)
    return deltas.astype(np.float32), {
        "base": drawn.normal(size=shape).astype(np.float32),
        "scores": drawn.random((experts, *shape)).astype(np.float32),
        "grams": np.stack([x.T @ x for x in drawn.normal(size=(experts, 99, shape[1]))]),
        "tasks": [f"t{i}" for i in range(experts)],
        "name": "w",
        "seed": 3,
    }


def difference(name: str) -> float:
    """The largest difference over a few matrices, relative to the largest entry."""
    worst = 0.0
    for seed, shape in enumerate(SHAPES):
        deltas, facts = known(find(name).most or 3, shape, seed)
        stack = Stack(
            torch.from_numpy(deltas),
            tasks=tuple(facts["tasks"]),
            name=facts["name"],
            seed=facts["seed"],
            base=torch.from_numpy(facts["base"]),
            scores=tuple(
                torch.from_numpy(facts["grams" if find(name).statistic == "gram" else "scores"])
            ),
        )
        wide = {k: v.astype(np.float64) if k in ("base", "scores") else v for k, v in facts.items()}
        expected = REFERENCES[name](deltas.astype(np.float64), wide)
        merged = get(name).merge(stack).double().numpy()
        worst = max(worst, float(np.abs(merged - expected).max() / np.abs(expected).max()))
    return worst


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_the_difference_to_the_authors_formula_is_what_the_page_says(name: str) -> None:
    assert difference(name) <= float(ROWS[name])


def test_the_page_has_a_row_for_every_strategy_and_a_formula_stands_behind_it() -> None:
    assert set(ROWS) == set(names())
    assert set(REFERENCES) | ELSEWHERE == set(names())
