"""Three fine-tunes of a small base on disk, and one call that merges them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from deltakit.delta_source import ModelDelta
from deltakit.engine import Expert, Limits, Plan, execute, make_plan
from deltakit.recipe import Recipe, Task
from deltakit.tensors.checkpoint import Checkpoint
from tests.models import some_tensors, write_model

TASKS = ("a", "b", "c")


def tune(tensors: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Return the tensors with every float moved a little."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (value.float() + 0.1 * torch.randn(value.shape, generator=generator)).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in tensors.items()
    }


def write_models(folder: Path, *, shards: int = 1, tensors: Any = None) -> None:
    """Write base, a, b and c, each cut into `shards` files."""
    base = some_tensors() if tensors is None else tensors
    write_model(folder / "base", base, shards=shards)
    for seed, task in enumerate(TASKS, 1):
        write_model(folder / task, tune(base, seed), shards=shards)


def plan(folder: Path, strategy: str, limits: Limits | None = None, **recipe: Any) -> Plan:
    """Return the plan of merging a, b and c, or the `tasks` given by name."""
    tasks = recipe.pop("tasks", TASKS)
    each = recipe.pop("weights", [1.0] * len(tasks))
    made = Recipe(
        base=str(folder / "base"),
        tasks=[Task(t, str(folder / t), weight) for t, weight in zip(tasks, each, strict=True)],
        strategy=strategy,
        **recipe,
    )
    experts = [Expert(task, ModelDelta(Checkpoint.open(folder / task))) for task in tasks]
    return make_plan(made, Checkpoint.open(folder / "base"), experts, limits=limits)


def merged(folder: Path, strategy: str, limits: Limits | None = None, **recipe: Any) -> Path:
    """Merge into the next free folder and return it."""
    out = folder / f"out-{len(list(folder.glob('out-*')))}"
    execute(plan(folder, strategy, limits, **recipe), out)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a model folder."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found
