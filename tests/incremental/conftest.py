"""Models to merge one by one, and two of them merged with their state."""

from pathlib import Path

import pytest
import torch

from deltakit.importance import ImportanceMap
from tests.engine.merging import tune
from tests.incremental.growing import SHAPES, at_once
from tests.models import write_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and four fine-tunes of it with importance maps, and Gram matrices of the matrices."""
    folder = tmp_path_factory.mktemp("models")
    draw = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=draw).bfloat16() for n, s in SHAPES.items()}
    base["ids"] = torch.arange(4)
    write_model(folder / "base", base)
    for seed, task in enumerate("abcd", 1):
        write_model(folder / task, tune(base, seed))
        scores = {n: torch.rand((), generator=draw) for n in SHAPES}
        ImportanceMap(scores, task=task).save(folder / f"{task}.scores.safetensors")
        inputs = {n: torch.randn(40, s[1], generator=draw) for n, s in SHAPES.items() if s[1:]}
        grams = {n: x.T @ x for n, x in inputs.items()}
        gram = ImportanceMap(grams, task=task, units="gram", score="gram")
        gram.save(folder / f"{task}.gram.safetensors")
    return folder


@pytest.fixture
def ab(models: Path, tmp_path: Path) -> Path:
    return at_once(models, "average", "ab", tmp_path / "ab", keep_state=True)
