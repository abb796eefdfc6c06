"""Merging adapters into one by their factors: no base, no dense product where none is due."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltakit.errors import BadValue, some
from deltakit.lora.checks import ModuleCheck, check
from deltakit.lora.cut import chosen_rank, cut
from deltakit.lora.factors import Factors
from deltakit.lora.modes import find
from deltakit.lora.plan import Plan, plan_merge, shape_of
from deltakit.lora.record import Report, new_adapter
from deltakit.lora.survey import Progress
from deltakit.lora.union import Member
from deltakit.lora.write import AdapterWriter, Contents, NewPart
from deltakit.recipe import Piece
from deltakit.tensors.files import LOCAL, Files
from deltakit.threads import one_torch_thread, run_all

if TYPE_CHECKING:
    from torch import Tensor

THREADS = 2


def merge_adapters(
    members: Sequence[Member],
    mode: str,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    mask: str | None = None,
    weights: str | None = None,
    lines: tuple[float, float] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    files: Files = LOCAL,
    **options: Any,
) -> Report:
    """Merge adapters into one PEFT folder, and return how exact it is.

    >>> merge_adapters([Member("a", open_adapter("./a")), Member("b", open_adapter("./b"))],
    ...                "svd", "./merged", size=Size(rank=16))            # doctest: +SKIP

    mode: cat, svd, linear, core_space, knots, klf, a strategy, or FILE.py:Class. settings: the
    mode's. mask ("random:density=0.1"), weights ("auto:NAME") and lines (a, b) stand around a
    strategy as they do in `deltakit.merge`. size: the rank, or the energy to keep; by default what
    the mode says. scale multiplies the result. seed: of random masks, which depend on the members'
    names. dtype: of the output, by default the narrowest that holds all inputs'. importance: maps
    of rank units, one an adapter, for klf, in place of the members' own.
    base: read only for what adapters keep whole, where weights do not add up to 1; lines and a mask
    by depth need it for the depths of its layers. progress: told
    of each tensor's bytes when they are merged, of modules twice where an energy is asked for.
    Adapters of weight 0 are left out. Raises DeltakitError before anything is written, or leaves
    nothing; BadValue where what is written would change nothing.
    """
    import torch  # noqa: F401  takes seconds the first time: not part of the merge

    began = time.perf_counter()
    chosen = find(
        mode,
        settings,
        mask=None if mask is None else Piece.parse(mask),
        weighting=None if weights is None else Piece.auto(weights),
        lines=lines,
    )
    plan = plan_merge(members, mode, chosen, **options)
    inputs = [member.adapter.path for member in members]
    with new_adapter(Path(out), inputs, overwrite, files) as folder, one_torch_thread():
        contents = _contents(plan, progress)
        with AdapterWriter(folder.path, contents, folder.told(plan.record), files) as writer:
            checks = _write_parts(plan, contents, writer, progress)
            for name in contents.whole:
                writer.write_whole(name, plan.kept.blocks(name))
                if progress:
                    progress(name, plan.kept.nbytes(name))
            for name in contents.rows:
                writer.write_rows(name, plan.kept.merged_rows(name))
        for member in members:
            member.adapter.check_unchanged()
        report = Report.of(out, plan.record, checks, contents, plan.notes)
        folder.finish(plan.record, report)
    report.seconds = time.perf_counter() - began
    return report


def _contents(plan: Plan, progress: Progress | None) -> Contents:
    parts: dict[str, NewPart] = {}
    lock = threading.Lock()

    def settle(module: str) -> None:
        part = _new_part(plan, module)
        with lock:
            parts[module] = part
        if progress and plan.record.energy is not None:
            progress(module, plan.nbytes(module))

    run_all(settle, iter(plan.modules), THREADS)
    rows = {name: (len(rows), plan.kept.columns(name)) for name, rows in plan.kept.rows.items()}
    ordered = [parts[module] for module in plan.modules]
    if plan.record.uniform and ordered:
        rank = max(part.rank for part in ordered)
        ordered = [dataclasses.replace(part, rank=rank) for part in ordered]
    return Contents(ordered, plan.dtype, plan.fields, plan.kept.whole, rows)


def _new_part(plan: Plan, module: str) -> NewPart:
    parts = plan.modules[module]
    part = next(iter(parts.values()))
    ranks = [found.rank for found in parts.values()]
    made = NewPart(
        module,
        part.kind,
        1,
        part.outputs,
        part.inputs,
        bias=part.kind != "embedding" and any(m.adapter.config.lora_bias for m in plan.members),
        magnitude=part.magnitude is not None,
    )
    size = plan.record.size
    if size.energy is not None:
        pack = plan.pack(module)
        rank = chosen_rank(plan.mode.merge(pack), size, plan.record.seed)
    elif size.rank is not None:
        rank = size.rank
    else:
        rank = plan.mode.default_rank(ranks, shape_of(part))
    return NewPart(module, made.kind, rank, made.outputs, made.inputs, made.bias, made.magnitude)


def _write_parts(
    plan: Plan, contents: Contents, writer: AdapterWriter, progress: Progress | None
) -> list[ModuleCheck]:
    checks: dict[str, ModuleCheck] = {}
    applied = set()

    def do(part: NewPart) -> None:
        pack = plan.pack(part.module)
        made, kept = cut(plan.mode.merge(pack), part.rank, plan.record.seed)
        merged = Factors(made.a, made.b * plan.record.scale)
        bias, magnitude = _bias(plan, part), None
        if part.magnitude:
            magnitude = plan.members[0].adapter.magnitude(part.module)
        written = writer.write_part(part, merged, bias, magnitude)
        checks[part.module] = check(
            part.module,
            pack.products,
            plan.shares(pack),
            written,
            None if plan.mode.exact else kept,
        )
        # Of a sum that cancels, rounding may leave factors that are not zero.
        live = checks[part.module].norm > 0 if plan.mode.exact else written.b.any()
        if bias is not None or magnitude is not None or live:
            applied.add(part.module)
        if progress:
            progress(part.module, plan.nbytes(part.module))

    run_all(do, iter(contents.parts), THREADS)
    alone = len(plan.members) == 1 and plan.members[0].weight * plan.record.scale == 1.0
    if not (applied or contents.whole or contents.rows or alone):
        raise BadValue(
            "nothing was applied: the merged adapter changes nothing",
            where=some([member.name for member in plan.members]),
            remedy="check that the adapters were trained, and the weights: opposite ones cancel",
        )
    return [checks[part.module] for part in contents.parts]


def _bias(plan: Plan, part: NewPart) -> Tensor | None:
    import torch

    if not part.bias:
        return None
    total = torch.zeros(part.outputs)
    for number in plan.modules[part.module]:
        bias = plan.members[number].adapter.bias(part.module)
        if bias is not None:
            total = total + bias * plan.kept.shares[number]
    return total
