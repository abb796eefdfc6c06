"""A merged model changed by a task: what --onto and --without mean on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from deltakit_cli.lists import numbers

if TYPE_CHECKING:
    from deltakit.engine import Limits, Plan
    from deltakit.store import Store

_OF_NEW_TASKS = frozenset({"TASK", "--base", "--weights", "--importance"})


def plan_change(
    merged: Path | None,
    without: Sequence[str],
    given: Sequence[str],
    *,
    tasks: Sequence[str],
    base: str | None,
    weights: str,
    importance: Sequence[Path],
    store: Store | None,
    limits: Limits,
    allow_code: bool,
    keep_state: bool,
) -> Plan:
    """Return the plan of adding tasks to a merged model, or of taking some out.

    `given` are the names of the options there are: those that the merged model's recipe fixes are
    usage errors.
    """
    from deltakit.incremental import plan_onto, plan_without

    if merged is None:
        raise typer.BadParameter("--without takes a task out of what? add --onto MERGED")
    free = frozenset() if without else _OF_NEW_TASKS
    fixed = [name for name in given if name not in free]
    if fixed:
        option = "--without" if without else "--onto"
        raise typer.BadParameter(f"{option} takes no {', '.join(fixed)}: the merged model's count")
    if without:
        return plan_without(
            merged, without, limits=limits, keep_state=keep_state, allow_code=allow_code
        )
    if not tasks:
        raise typer.BadParameter("TASK|PATH to add is missing; or give --without TASK")
    return plan_onto(
        merged,
        tasks,
        base=base,
        store=store,
        weights=numbers("--weights", weights),
        importance=importance,
        limits=limits,
        allow_code=allow_code,
    )
