"""merge: from names to a merged model folder, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltakit.engine import Limits, Plan, Report, execute, make_plan
from deltakit.errors import BadValue
from deltakit.experts import Resolved, reopen, resolve
from deltakit.recipe import DEFAULT_SHARD_SIZE, Recipe, Task
from deltakit.store import Store
from deltakit.strategies import find
from deltakit.tensors.dtypes import parse_dtype


def plan_merge(
    tasks: Sequence[str],
    strategy: str,
    *,
    base: str | None = None,
    store: Store | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Sequence[float] = (),
    importance: Sequence[str | Path] = (),
    scale: float = 1.0,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    limits: Limits | None = None,
) -> Plan:
    """Return the checked plan of a merge: what `deltakit merge --dry-run` shows.

    Arguments are those of `merge`. Reads headers only, unless a base must be hashed.
    """
    if isinstance(tasks, str):
        raise BadValue("the tasks are one text", expected="a list of names or paths", got=tasks)
    if weights and len(weights) != len(tasks):
        raise BadValue(
            "a weight goes with each task", expected=f"{len(tasks)} weights", got=f"{len(weights)}"
        )
    if importance and not find(strategy).needs_importance:
        raise BadValue(
            f"{strategy} uses no importance maps", remedy="leave them out, or merge with klf"
        )
    found = resolve(tasks, base, store, importance)
    recipe = Recipe(
        base=str(found.base.path),
        tasks=_tasks(found, weights or [1.0] * len(tasks)),
        strategy=strategy,
        settings=dict(settings or {}),
        scale=scale,
        seed=seed,
        dtype=None if dtype is None else parse_dtype(dtype),
        max_shard_size=max_shard_size,
    )
    return make_plan(recipe, found.base, found.experts, base_table=found.table, limits=limits)


def plan_recipe(recipe: Recipe, limits: Limits | None = None) -> Plan:
    """Return the checked plan of a recipe read from a file; its paths are opened as they stand."""
    found = reopen(recipe)
    return make_plan(recipe, found.base, found.experts, base_table=found.table, limits=limits)


def merge(
    tasks: Sequence[str],
    strategy: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    **options: Any,
) -> Report:
    """Merge tasks or models into the model folder `out`.

    >>> merge(["./ft-a", "./ft-b"], "ties", "./merged", base="./base",
    ...       settings={"density": 0.3})                             # doctest: +SKIP

    tasks: names in `store`, or paths of model folders or delta files; their order matters to
    ordered strategies. base: a path, or a name in the store; the tasks' own by default.
    settings: the strategy's. weights: one a task. importance: a map's path for each task.
    scale: multiplies the merged delta. seed: of all random masks. dtype: of the output, the
    base's by default. max_shard_size: bytes of an output file. limits: threads, block size,
    memory. Raises DeltakitError before anything is written, or leaves nothing behind.
    """
    plan = plan_merge(tasks, strategy, **options)
    return execute(plan, out, overwrite=overwrite, allow_nonfinite=allow_nonfinite)


def _tasks(found: Resolved, weights: Sequence[float]) -> list[Task]:
    return [
        Task(e.name, path, weight, None if e.importance is None else str(e.importance))
        for e, path, weight in zip(found.experts, found.paths, weights, strict=True)
    ]
