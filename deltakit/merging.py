"""merge: from names to a merged model folder, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deltakit.engine import Limits, Plan, Report, execute, make_plan
from deltakit.errors import BadValue
from deltakit.experts import Resolved, refuse_undecodable, reopen, resolve
from deltakit.recipe import DEFAULT_SHARD_SIZE, Piece, Recipe, Rule, Task
from deltakit.store import Store


def plan_merge(
    tasks: Sequence[str],
    strategy: str,
    *,
    base: str | None = None,
    store: Store | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Sequence[float] | str = (),
    mask: str | None = None,
    lines: tuple[float, float] | None = None,
    exclude: Sequence[str] = (),
    heads: Sequence[str] = (),
    importance: Sequence[str | Path] = (),
    scale: float = 1.0,
    seed: int = 0,
    dtype: str | None = None,
    accumulate: str | None = None,
    tokenizer: str | None = None,
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    limits: Limits | None = None,
    keep_state: bool = False,
) -> Plan:
    """Return the checked plan of a merge: what `deltakit merge --dry-run` shows.

    Arguments are those of `merge`. Reads headers only, unless a base must be hashed.
    """
    if isinstance(tasks, str):
        raise BadValue("the tasks are one text", expected="a list of names or paths", got=tasks)
    found_by = Piece.auto(weights) if isinstance(weights, str) and weights else None
    each = [] if isinstance(weights, str) else list(weights)
    method = Recipe(
        base="",
        tasks=[],
        strategy=strategy,
        settings=dict(settings or {}),
        mask=None if mask is None else Piece.parse(mask),
        weighting=found_by,
        lines=lines,
        rules=[Rule(match=list(exclude), exclude=True)] if exclude else [],
        heads=list(heads),
    )
    check_importance(method, importance)
    found = resolve(tasks, base, store, importance)
    recipe = msgspec.structs.replace(
        method,
        base=str(found.base.path),
        tasks=recipe_tasks(found, each),
        scale=scale,
        seed=seed,
        dtype=dtype,
        accumulate=accumulate,
        tokenizer=tokenizer,
        max_shard_size=max_shard_size,
    )
    return make_plan(
        recipe,
        found.base,
        found.experts,
        base_table=found.table,
        limits=limits,
        keep_state=keep_state,
    )


def plan_recipe(
    recipe: Recipe,
    limits: Limits | None = None,
    *,
    store: Store | None = None,
    allow_code: bool = False,
    keep_state: bool = False,
) -> Plan:
    """Return the checked plan of a recipe read from a file; its paths are opened as they stand.

    A task without a path is the store's, and so is a base that is left out. A recipe may come
    from anywhere: one that names a file's code is refused unless `allow_code`.
    """
    if not allow_code:
        recipe.refuse_code()
    found = reopen(recipe, store)
    recipe = msgspec.structs.replace(
        recipe, base=str(found.base.path), tasks=_located(recipe.tasks, found)
    )
    return make_plan(
        recipe,
        found.base,
        found.experts,
        base_table=found.table,
        limits=limits,
        keep_state=keep_state,
    )


def _located(tasks: Sequence[Task], found: Resolved) -> list[Task]:
    """Return a recipe's tasks with the paths that a store filled in."""
    return [
        msgspec.structs.replace(
            task, path=path, importance=None if e.importance is None else str(e.importance)
        )
        for task, path, e in zip(tasks, found.paths, found.experts, strict=False)  # then its models
    ]


def merge(
    tasks: Sequence[str],
    strategy: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_nonfinite: bool = False,
    **options: Any,
) -> Report:
    """Merge tasks or models into the model folder `out`.

    >>> merge(["./ft-a", "./ft-b"], "ties", "./merged", base="./base",
    ...       settings={"density": 0.3})                             # doctest: +SKIP

    tasks: names in `store`, or paths of model folders or delta files; their order matters to
    ordered strategies. base: a path, or a name in the store; the tasks' own by default.
    settings: the strategy's. weights: one a task, or "auto:NAME" to find them from the deltas.
    mask: thins the deltas before the strategy, as "random:density=0.1". lines: (a, b) multiplies
    the merged delta by a + b depth. exclude, heads: globs of tensors to keep as in the base, and
    of those that each task keeps for itself, beside the result. importance: a map's path for each
    task. scale: multiplies the merged delta. seed: of all random masks. dtype: of the output,
    the base's by default. accumulate: "float64" to sum in it, float32 by default. tokenizer:
    "base", "union" or a path, for models of different tokenizers: rows of embeddings and heads are
    matched by token. max_shard_size: bytes of an output file. limits: threads, block size, memory.
    keep_state: keeps what a task can be added to later (`merge_onto`). Raises DeltakitError before
    anything is written, or leaves nothing behind.
    """
    plan = plan_merge(tasks, strategy, **options)
    return execute(plan, out, overwrite=overwrite, resume=resume, allow_nonfinite=allow_nonfinite)


def check_importance(recipe: Recipe, maps: Sequence[str | Path]) -> None:
    """Raise BadValue for importance maps that nothing of the recipe uses."""
    if maps and not any(method.needs_importance for method in recipe.methods()):
        raise BadValue(
            f"{recipe.strategy} uses no importance maps",
            remedy="leave them out, or merge with klf",
        )


def recipe_tasks(found: Resolved, weights: Sequence[float]) -> list[Task]:
    """Return what a recipe says of opened experts and their weights, each 1 where none is given.

    Raises BadValue for another number of weights, and for a path that is not UTF-8.
    """
    if weights and len(weights) != len(found.experts):
        raise BadValue(
            "a weight goes with each task",
            expected=f"{len(found.experts)} weights",
            got=f"{len(weights)}",
        )
    for path in (str(found.base.path), *found.paths):
        refuse_undecodable(path)  # a store may lie in a folder of such a name
    weights = weights or [1.0] * len(found.experts)
    return [
        Task(e.name, path, weight, None if e.importance is None else str(e.importance))
        for e, path, weight in zip(found.experts, found.paths, weights, strict=True)
    ]
