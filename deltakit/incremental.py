"""merge_onto, merge_without: a task added to a merged model, or taken out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from deltakit.engine import Limits, Plan, Report, execute, make_plan
from deltakit.engine.folder import paths_of
from deltakit.engine.groups import Group
from deltakit.engine.keeping import check_streams
from deltakit.engine.state import State, keeps_state, read_note, read_recipe
from deltakit.errors import InputChanged, UnknownName, nearest
from deltakit.experts import resolve
from deltakit.merging import check_importance, plan_recipe, recipe_tasks
from deltakit.store import Store
from deltakit.tensors.sidecars import RECIPE_NAME


def plan_onto(
    merged: str | Path,
    tasks: Sequence[str],
    *,
    base: str | None = None,
    store: Store | None = None,
    weights: Sequence[float] = (),
    importance: Sequence[str | Path] = (),
    limits: Limits | None = None,
    allow_code: bool = False,
) -> Plan:
    """Return the checked plan of adding tasks to a merged model; arguments as of `merge_onto`.

    Reads every byte of the merged model and its state, and of the base.
    """
    folder = Path(merged)
    recipe = read_recipe(folder)
    if not allow_code:
        recipe.refuse_code()
    if not keeps_state(folder):  # one that cannot be kept is said first
        check_streams(recipe, [Group(0, (), recipe.methods()[:1])])
    before = State.open(folder)
    check_importance(recipe, importance)
    found = resolve(tasks, base or recipe.base, store, importance)
    recipe = msgspec.structs.replace(
        recipe,
        base=str(found.base.path),
        tasks=[*recipe.tasks, *recipe_tasks(found, weights)],
    )
    return make_plan(
        recipe,
        found.base,
        found.experts,
        base_table=found.table,
        limits=limits,
        before=before,
    )


def plan_without(
    merged: str | Path,
    tasks: Sequence[str],
    *,
    limits: Limits | None = None,
    keep_state: bool = False,
    allow_code: bool = False,
) -> Plan:
    """Return the checked plan of taking tasks out; arguments as of `merge_without`."""
    folder = Path(merged)
    recipe = read_recipe(folder)
    names = [task.name for task in recipe.tasks]
    for task in tasks:
        if task not in names:
            close = nearest(task, names)
            raise UnknownName(
                f"no task {task!r} is in the merged model",
                where=str(folder),
                expected=", ".join(names),
                remedy=f"did you mean {close!r}?" if close else None,
            )
    rest = [task for task in recipe.tasks if task.name not in tasks]
    recipe = msgspec.structs.replace(
        recipe, tasks=rest, rules=[rule.without(tasks) for rule in recipe.rules]
    )
    plan = plan_recipe(
        recipe, limits, allow_code=allow_code, keep_state=keep_state or keeps_state(folder)
    )
    _check_untouched(plan, folder)
    return plan


def merge_onto(
    merged: str | Path,
    tasks: Sequence[str],
    out: str | Path,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Report:
    """Add tasks to a merged model that keeps its running state; write the model folder `out`.

    >>> merge_onto("./merged", ["./ft-c"], "./merged-abc")               # doctest: +SKIP

    The earlier tasks' files are not needed. Strategy, settings, seed and the rest are those of the
    merged model's recipe; the bytes are those of all its tasks merged at once, in their order.
    base: where the base lies, if no longer where the recipe says. weights, importance: one for
    each of the new tasks. `out` keeps its state in turn, and may be `merged` itself, with
    `overwrite`. Raises BadValue for a strategy that needs all tasks at once, NotFound
    where no state was kept, BadFile where a byte of the merged model is not as it was written,
    WrongBase, and what `merge` raises.
    """
    return execute(plan_onto(merged, tasks, **options), out, overwrite=overwrite)


def merge_without(
    merged: str | Path,
    tasks: Sequence[str],
    out: str | Path,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Report:
    """Take tasks out of a merged model: merge the others again, and write the folder `out`.

    >>> merge_without("./merged", ["sms"], "./merged-without-sms")       # doctest: +SKIP

    A rounded sum does not give back what was added to it, so nothing is subtracted: the other
    tasks' files are read again, which is exact for every strategy. `out` keeps a running
    state if `merged` does, or with `keep_state`. Raises UnknownName for a task that is not in
    it, NotFound for a file that is gone, InputChanged for one written to since it was merged.
    """
    return execute(plan_without(merged, tasks, **options), out, overwrite=overwrite)


def _check_untouched(plan: Plan, folder: Path) -> None:
    """Raise InputChanged for an input that is newer than the merge it was in."""
    base, tasks = _merged(folder)
    for file in plan.base.files:
        _check_older(file.path, base, folder)
    for expert in plan.experts:
        for path in paths_of(expert):
            _check_older(path, tasks.get(expert.name, base), folder)


def _merged(folder: Path) -> tuple[int, dict[str, int]]:
    """Return when the base was last known to be the one that was merged, and when each task was."""
    written, recipe = (folder / RECIPE_NAME).stat().st_mtime_ns, read_recipe(folder)
    times = [written] * len(recipe.tasks)
    if keeps_state(folder):
        times = [min(written, time) for time in read_note(folder).times(recipe)]
    names = [task.name for task in recipe.tasks]
    return max(times), dict(zip(names, times, strict=True))


def _check_older(path: Path, merged: int, folder: Path) -> None:
    if path.stat().st_mtime_ns > merged:
        raise InputChanged(
            "a file was written to after it was merged, so that leaving a task out would not"
            " be all that changes",
            where=str(path),
            remedy=f"bring back what was merged into {folder}, or merge by name",
        )
