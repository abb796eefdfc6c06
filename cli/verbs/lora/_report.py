"""What is printed of an adapter that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit_cli.figures import seconds, size
from deltakit_cli.output import notes, say_wrapped, table
from deltakit_cli.progress import Meter, progress
from deltakit_cli.records import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deltakit.lora.checks import ModuleCheck
    from deltakit.lora.cut import Size
    from deltakit.lora.record import Report
    from deltakit.lora.union import Member


def merging(members: Sequence[Member], size: Size) -> Meter:
    """Return a meter for a merge of adapters; to find ranks, factors are read once more."""
    total = sum(member.adapter.nbytes for member in members)
    return progress("merge", total if size.energy is None else 2 * total)


def show_report(report: Report, adapters: int) -> None:
    """Print what was written and how exact it is."""
    extracted = report.mode == "extract"
    ranks = report.ranks
    span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    made = f"merged {adapters} adapters with {report.mode} into"
    made = "extracted" if extracted else made if adapters > 1 else "wrote"
    say_wrapped(
        f"{made} {report.out}: {count(len(report.modules), 'module')},"
        f" {size(report.nbytes)}, {seconds(report.seconds)}"
    )
    total = report.summary
    exact = "the fine-tune's delta" if extracted else "the exact weighted sum"
    say_wrapped(
        f"rank {span} keeps {total.kept:.1%} of the energy;"
        f" relative error against {exact} {total.error:.2g}"
    )
    if total.kept < 0.9995 or total.error > 1e-3:
        table(["worst", "rank", "kept", "error"], map(_row, total.worst), align="lr")
    if report.kept:
        how = "kept whole" if extracted else "kept whole, merged by the same weights"
        say_wrapped(f"{how}: {count(len(report.kept), 'tensor')}")
    notes(report.notes)


def _row(check: ModuleCheck) -> list[str]:
    return [check.module, f"{check.rank}", f"{check.kept:.1%}", f"{check.error:.2g}"]
