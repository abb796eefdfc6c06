"""Executing a plan: threads that read, merge, round once and write, block after block."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deltakit.engine.folder import check_target, write_sidecars
from deltakit.engine.output import Output
from deltakit.engine.plan import Plan
from deltakit.engine.report import Report, Tally
from deltakit.engine.threads import one_torch_thread, run_all
from deltakit.engine.units import units
from deltakit.engine.worker import Worker
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.new_folder import new_folder

Progress = Callable[[str, int], None]  # tensor, bytes written since the last call


def execute(
    plan: Plan,
    out: str | Path,
    *,
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
    files: Files = LOCAL,
) -> Report:
    """Merge into the folder `out` and return what was done.

    The folder appears, complete and durable, when all of it is written; after any failure or
    Ctrl-C there is nothing under its name, or what was there before. Raises AlreadyThere for an
    existing folder (unless `overwrite`), NonFinite naming the tensor for NaN or infinity in the
    result (unless `allow_nonfinite`), InputChanged for an input that something wrote to, and
    BadValue when nothing was applied.
    """
    import torch  # noqa: F401  takes seconds the first time: not part of the merge

    out = Path(out)
    check_target(plan, out, overwrite, files)
    began = time.perf_counter()
    tally = Tally(len(plan.experts))
    with new_folder(out, replace=overwrite, files=files) as folder:
        with Output(folder, plan.shards, files, progress) as output, one_torch_thread():
            worker = Worker(plan, output, tally, allow_nonfinite)
            run_all(worker.do, units(plan), plan.threads)
        plan.base.check_unchanged()
        for expert in plan.experts:
            expert.source.check_unchanged()
        report = tally.report(plan, out)
        write_sidecars(plan, folder, files)
    report.seconds = time.perf_counter() - began
    return report
