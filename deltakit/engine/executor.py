"""Executing a plan: threads that read, merge, round once and write, block after block."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from deltakit.engine.aside import write_heads
from deltakit.engine.device import Device
from deltakit.engine.fold import finish, folding
from deltakit.engine.folder import check_sidecars, check_target, write_sidecars
from deltakit.engine.keeping import check_allowed
from deltakit.engine.output import Output
from deltakit.engine.plan import Plan
from deltakit.engine.report import Report, Tally
from deltakit.engine.resume import Interrupted, key
from deltakit.engine.units import units
from deltakit.engine.worker import Worker
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.new_folder import new_folder
from deltakit.threads import one_torch_thread, run_all

Progress = Callable[[str, int], None]  # tensor, bytes written since the last call


def check_execution(
    plan: Plan,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_nonfinite: bool = False,
    device: str | None = None,
    files: Files = LOCAL,
) -> Device | None:
    """Raise what `execute` would before it reads a tensor; return the device it is to use."""
    if plan.keeping is not None:
        check_allowed(resume=resume, nonfinite=allow_nonfinite, device=device is not None)
    check_target(plan, out, overwrite, files)
    check_sidecars(plan)
    if device is None:
        return None
    methods = [effective.method for effective in plan.effective.values()]
    return Device(device, methods, wide=plan.recipe.accumulate is not None)


def execute(
    plan: Plan,
    out: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
    device: str | None = None,
    files: Files = LOCAL,
) -> Report:
    """Merge into the folder `out` and return what was done.

    The folder appears, complete and durable, when all of it is written; after any failure or
    Ctrl-C there is nothing under its name, or what was there before. Raises AlreadyThere for an
    existing folder (unless `overwrite`), NonFinite naming the tensor for NaN or infinity in a delta
    or in what is merged (unless `allow_nonfinite`), InputChanged for an input that something wrote
    to, and BadValue when nothing was applied.

    With `resume`, shards that were complete when a merge of the same recipe and the same inputs
    into the same folder was interrupted (Ctrl-C, a full disk, a crash) are not made again, and are
    kept for the next time should this one be; the bytes are the same.

    `device` ("cuda", "cuda:1", "mps") sums and rounds there; BadValue where that cannot be.
    """
    out = Path(out)
    there = check_execution(
        plan,
        out,
        overwrite=overwrite,
        resume=resume,
        allow_nonfinite=allow_nonfinite,
        device=device,
        files=files,
    )
    if there is not None:  # which gets blocks
        plan = replace(plan, scratch=replace(plan.scratch, at_once=0))
    if device is not None or not plan.for_kernels:
        import torch  # noqa: F401  takes seconds the first time: not part of the merge
    began = time.perf_counter()
    tally = Tally(len(plan.experts))
    keep = key(plan, allow_nonfinite, device) if resume else None
    with new_folder(out, replace=overwrite, keep=keep, files=files) as folder:
        before = Interrupted(folder, files) if resume else None
        done = before.finished(plan, tally) if before else []
        shards = [shard for shard in plan.shards if shard not in done]
        complete = partial(before.finish, tally=tally) if before else None
        with (
            Output(folder, shards, files, progress, complete) as output,
            folding(plan, folder, files, progress) as fold,
            one_torch_thread(),
        ):
            worker = Worker(plan, output, tally, allow_nonfinite, fold, there)
            run_all(worker.do, units(plan, shards), plan.scratch.threads)
        report = tally.report(plan, out)
        report.resumed = len(done)
        if before:
            before.clear(plan)
        write_heads(plan, folder, files)
        write_sidecars(plan, folder, files)
        finish(plan, folder, files)
        plan.base.check_unchanged()
        for expert in plan.experts:
            expert.source.check_unchanged()
    report.seconds = time.perf_counter() - began
    return report
