"""A merge in text: the plan that --dry-run prints, and the report of what was done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltakit_cli.figures import seconds, size, things
from deltakit_cli.lists import settings_text
from deltakit_cli.output import notes, say, say_wrapped, table

if TYPE_CHECKING:
    from deltakit.engine import Plan, Report
    from deltakit.recipe import Piece
    from deltakit.vocabulary import Matched


def plan_data(plan: Plan, out: Path) -> dict[str, Any]:
    """Return what --dry-run tells, as data."""
    return {
        "recipe": plan.recipe,
        "out": out,
        "files": [shard.file_name for shard in plan.shards],
        "parameters_merged": len(plan.merged),
        "tensors_copied": len(plan.base.infos) - len(plan.merged),
        "bytes_in": plan.bytes_in,
        "bytes_out": plan.bytes_out,
        "state_bytes": plan.state_bytes,
        "scratch_memory": plan.scratch.nbytes,
        "threads": plan.scratch.threads,
        "block": plan.scratch.block,
        "vocabulary": vocabulary_data(plan),
        "looks_first_at": plan.looks,
        "tensors_by_rule": {str(group.rule): len(group.names) for group in plan.groups},
        "heads": {task: list(heads.names) for task, heads in plan.heads.items()},
        "estimated_seconds": plan.seconds,
        "notes": plan.notes,
    }


def show_plan(plan: Plan, out: Path) -> None:
    """Print the plan for a reader."""
    from deltakit.recipe.gradient import text

    recipe = plan.recipe
    how = f"{recipe.strategy} of {things(len(recipe.tasks), 'task')} onto"
    say(f"plan: {how if recipe.merges else 'layers stacked on'} {recipe.base}")
    if recipe.tasks:
        table(
            ["task", "weight", "from"],
            [[t.name, text(t.weight), came_from(plan, i)] for i, t in enumerate(recipe.tasks)],
            align="lrl",
        )
    say()
    settings = settings_text(recipe.settings)
    around = (("mask", recipe.mask), ("weights", recipe.weighting), ("lines", recipe.lines))
    copied = len(plan.base.infos) - len(plan.merged)
    as_is = "taken or copied" if recipe.slices else "copied"
    looks = {"nothing": "", "tensor": "; reads each tensor first", "model": "; reads all first"}
    rows = [
        *([["settings", settings or "none"]] if recipe.merges else []),
        *(["slice", part.text] for part in recipe.slices),
        *([[key, piece_text(piece)] for key, piece in around if piece is not None]),
        *([["rules", _rules_text(plan)]] if recipe.rules else []),
        ["tensors", f"{len(plan.merged)} merged, {copied} {as_is}{looks[plan.looks]}"],
        *([["tokens", vocabulary_text(plan.vocabulary)]] if plan.vocabulary else []),
        ["reads", size(plan.bytes_in)],
        ["writes", f"{size(plan.bytes_out)} in {things(len(plan.shards), 'file')} to {out}"],
        *([["state", f"{size(plan.state_bytes)} kept beside"]] if plan.keeping else []),
        ["memory", _memory_text(plan)],
        ["time", f"about {seconds(plan.seconds)}"],
    ]
    for name, told in rows:
        say_wrapped(f"{name:9} {told}", 10)
    for told in plan.notes:
        say_wrapped(f"note      {told}", 10)
    say("nothing was written (--dry-run)")


def _memory_text(plan: Plan) -> str:
    scratch = plan.scratch
    return f"{size(scratch.nbytes)} of scratch: {scratch.threads} threads, {scratch.block} entries"


def _rules_text(plan: Plan) -> str:
    """Return how many rules there are, and how many tensors are merged by each."""
    merged = [f"{len(group.names)} by rule {group.rule}" for group in plan.groups if group.rule]
    return f"{len(plan.recipe.rules)}; tensors merged: {', '.join(merged) or 'none'}"


def vocabulary_data(plan: Plan) -> dict[str, Any] | None:
    """Return how many tokens and rows there are, and in which tensors; None where by id."""
    found = plan.vocabulary
    if found is None:
        return None
    before, after = found.rows
    return {
        "tokens": found.tokens,
        "rows": after,
        "rows_in_base": before,
        "tensors": list(found.tensors),
    }


def vocabulary_text(found: Matched) -> str:
    """Return the same in a line or two."""
    before, after = found.rows
    rows = f"{after} rows" if before == after else f"{before} rows become {after}"
    named = len(next(iter(found.tensors.values())).lent)
    lent = f", {named} as the recipe's tokens say" if named else ""
    return f"{found.tokens}, {rows}{lent}, in {', '.join(found.tensors)}"


def came_from(plan: Plan, number: int) -> str:
    """Return where a task of the recipe is read: its path, or the merge that it is in already."""
    before = plan.keeping.before if plan.keeping else None
    if before is not None and number < len(before.recipe.tasks):
        return f"the state of {before.folder}"
    return plan.recipe.tasks[number].path


def piece_text(piece: Piece | tuple[float, float]) -> str:
    """Return what stands around the strategy in one line."""
    if isinstance(piece, tuple):
        return "{:g} + {:g} depth".format(*piece)
    each = [f"{task}: {settings_text(own)}" for task, own in sorted(piece.tasks.items())]
    told = "; ".join([settings_text(piece.settings)] * bool(piece.settings) + each)
    return f"{piece.name} ({told})" if told else piece.name


def show_report(plan: Plan, report: Report) -> None:
    """Print what was done for a reader."""
    added, earlier = len(report.task_norms), len(plan.recipe.tasks) - len(report.task_norms)
    tasks = things(added, "task")
    done = f"added {tasks} to {earlier}" if earlier else f"merged {tasks}"
    state = f" and {size(report.state_bytes)} of running state" if report.state_bytes else ""
    took = f"{size(report.bytes_out)}{state}, {{}}, {seconds(report.seconds)}"
    if plan.recipe.merges:
        copied = "taken or as in the base" if plan.recipe.slices else "as in the base"
        told = f"{things(report.changed, 'tensor')} changed, {report.copied} {copied}"
        say_wrapped(f"{done} with {plan.recipe.strategy} into {report.out}: {took.format(told)}")
        rows = [[name, f"{norm:.4g}"] for name, norm in report.task_norms.items()]
        table(["delta", "norm"], [*rows, ["merged", f"{report.merged_norm:.4g}"]], align="lr")
    else:
        told = f"{things(report.copied, 'tensor')} taken as they are"
        say_wrapped(f"stacked layers into {report.out}: {took.format(told)}")
    if report.resumed:
        notes([f"{report.resumed} files were finished before, and not made again"])
    notes(report.notes)
