"""unify: all tasks in one delta, and a mask of one bit an entry for each (arXiv:2405.17461)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import blake3

from deltakit import ops
from deltakit.dtypes import itemsize
from deltakit.engine import Limits, Plan
from deltakit.engine.blocks import Buffers, StackReader
from deltakit.engine.folder import input_paths
from deltakit.errors import AlreadyThere, BadValue, NonFinite
from deltakit.merging import plan_merge
from deltakit.provenance import FORMAT, ModelTable, render
from deltakit.store import Store
from deltakit.store.home import check_outside
from deltakit.strategies.emr import Emr
from deltakit.tensors import codec
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.new_folder import check_apart, new_folder
from deltakit.tensors.writer import SafetensorsWriter
from deltakit.threads import one_torch_thread
from deltakit.unified import MARK, UNIFIED, WHOLE, is_unified_delta, is_unified_mask

if TYPE_CHECKING:
    from deltakit.delta_file import Progress
    from deltakit.strategies import Stack

BLOCK = 1 << 18  # entries; a multiple of 8, so that blocks of bits begin on a byte


@dataclass(frozen=True)
class Unified:
    """What `unify` wrote: the folder, each file's bytes, and the tasks' rescalers."""

    out: str
    unified_bytes: int
    mask_bytes: int  # of each task
    files: Mapping[str, str]  # by task
    rescalers: Mapping[str, Mapping[str, float]]  # by task, by parameter or of the whole model


def plan_unify(
    tasks: Sequence[str],
    *,
    base: str | None = None,
    store: Store | None = None,
    weights: Sequence[float] = (),
    scope: str = "global",
) -> Plan:
    """Return the checked plan of `unify`: names, base and weights are those of `merge`.

    scope: "global" for one rescaler a task, as in the paper, "tensor" for one a parameter.
    """
    return plan_merge(
        tasks,
        "emr",
        base=base,
        store=store,
        settings={"scope": scope},
        weights=list(weights),
        limits=Limits(threads=1),
    )


def unify(
    plan: Plan, out: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Unified:
    """Write the unified delta of all tasks and a mask of each into the folder `out`.

    >>> unify(plan_unify(["./ft-a", "./ft-b"], base="./base"), "./emr")      # doctest: +SKIP

    A task is merged from its mask and the unified delta, `deltakit merge ./emr/ft-a.safetensors
    --strategy task_arithmetic`, to the bytes of `emr` with `task=ft-a`; the tasks' own files are no
    longer needed. Raises BadValue for a task called as the unified delta is, AlreadyThere,
    NonFinite for NaN or infinity; the folder appears when all of it is written.
    """
    names = [task.name for task in plan.recipe.tasks]
    files = {name: f"{quote(name, safe=' ')}.safetensors" for name in names}
    if UNIFIED in files.values():
        raise BadValue(
            "a task has the name of the unified delta",
            got=UNIFIED.removesuffix(".safetensors"),
            remedy="give it another: NAME=PATH",
        )
    codec.check_names(plan.merged)
    _check_target(plan, Path(out), overwrite)
    with new_folder(Path(out), replace=overwrite) as folder, one_torch_thread():
        writing = _Writing(plan, progress)
        rescalers = dict(zip(names, writing.rescalers(), strict=True))
        writing.write(folder, files, rescalers)
        plan.base.check_unchanged()
        for expert in plan.experts:
            expert.source.check_unchanged()
        unified = (folder / UNIFIED).stat().st_size
        masks = max((folder / file).stat().st_size for file in files.values())
    return Unified(str(out), unified, masks, files, rescalers)


def _check_target(plan: Plan, out: Path, overwrite: bool) -> None:
    """Raise unless `out` is free, or a folder of files that `unify` wrote."""
    check_outside(out)
    check_apart(out, input_paths(plan))
    if not overwrite or not out.is_dir() or out.is_symlink():
        return  # `new_folder` says what is wrong with these
    if not is_unified_delta(out / UNIFIED):
        raise AlreadyThere(
            f"the output exists and holds no {UNIFIED} of deltakit unify, so it is not ours to"
            " replace",
            where=str(out),
            remedy="choose another --out, or delete it yourself",
        )
    for path in sorted(out.iterdir()):
        if path.name != UNIFIED and not is_unified_mask(path):
            raise AlreadyThere(
                "the output exists and holds what deltakit unify did not write",
                where=str(out),
                expected=f"{UNIFIED} and masks of tasks, nothing else",
                got=path.name,
                remedy="choose another --out, or delete it yourself",
            )


class _Writing:
    """The two passes over all tasks: their sums, and what is written."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self.plan, self.progress = plan, progress
        strategy = plan.groups[0].methods[0].strategy
        assert isinstance(strategy, Emr)
        self.strategy = strategy
        self._reader = StackReader(plan)
        self._buffers = Buffers(len(plan.experts), BLOCK)

    def rescalers(self) -> list[dict[str, float]]:
        """Return those of each task, by parameter or one for the whole model."""
        if self.strategy.scope == "global":
            stack = self._stack(self.plan.merged[0], 0, 0)
            return [{WHOLE: found} for found in self.strategy.rescalers(stack)]
        each: list[dict[str, float]] = [{} for _ in self.plan.experts]
        for name in self.plan.merged:
            found = self.strategy.rescalers(self._stack(name, 0, 0))
            for table, value in zip(each, found, strict=True):
                table[name] = value
        return each

    def write(
        self, folder: Path, files: Mapping[str, str], rescalers: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Write the unified delta and every mask, block after block."""
        base = self.plan.base
        infos = {
            name: TensorInfo("F64" if base.infos[name].dtype == "F64" else "F32", found.shape)
            for name in self.plan.merged
            for found in [base.infos[name]]
        }
        table = ModelTable(base.infos, base.digests())
        # Whatever changes the unified delta changes these sums too.
        made = render([table.fingerprint, list(files), rescalers, self.strategy.scope])
        mark = blake3.blake3(made.encode()).hexdigest()
        with contextlib.ExitStack() as stack:
            delta = stack.enter_context(
                SafetensorsWriter(folder / UNIFIED, infos, _of_delta(table, mark, files))
            )
            bits = {n + codec.BITMASK: TensorInfo("U8", (-(-i.numel // 8),))
                    for n, i in infos.items()}  # fmt: skip
            masks = [
                stack.enter_context(
                    SafetensorsWriter(
                        folder / file, bits, _of_mask(infos, mark, task, rescalers[task])
                    )
                )
                for task, file in files.items()
            ]
            for name, info in infos.items():
                for start in range(0, info.numel, BLOCK):
                    self._write_block(name, info, start, delta, masks)

    def _write_block(
        self,
        name: str,
        info: TensorInfo,
        start: int,
        delta: SafetensorsWriter,
        masks: Sequence[SafetensorsWriter],
    ) -> None:
        stop = min(start + BLOCK, info.numel)
        stack = self._stack(name, start, stop)
        unified = self.strategy.unified(stack.deltas, stack.weights)  # (n,)
        if not bool(stack.deltas.isfinite().all() and unified.isfinite().all()):
            raise NonFinite("a delta is NaN or infinite", where=f"parameter {name!r}")
        size = itemsize(info.dtype)
        delta.write(name, start * size, memoryview(unified.numpy()).cast("B"))
        for own, mask in zip(stack.deltas, masks, strict=True):
            kept = ops.agreeing(own, unified).numpy() > 0
            mask.write(name + codec.BITMASK, start // 8, codec.pack(kept).tobytes())
        if self.progress:
            self.progress(name, (stop - start) * itemsize(self.plan.output_info(name).dtype))

    def _stack(self, name: str, start: int, stop: int) -> Stack:
        return self._reader.read(name, start, stop, self._buffers)


def _of_delta(table: ModelTable, mark: str, files: Mapping[str, Any]) -> dict[str, str]:
    recipe = {"mask": "none", "strategy": "emr", "tasks": render(list(files)), MARK: mark}
    return {
        "deltakit": str(FORMAT),
        "kind": "delta",
        "role": "add",
        "task": UNIFIED.removesuffix(".safetensors"),
        "base": table.fingerprint,
        "base_tensors": table.render(),
        "exact": "true",
        "density": "1.0",
        "recipe": render(recipe),
    }


def _of_mask(
    infos: Mapping[str, TensorInfo], mark: str, task: str, rescalers: Mapping[str, float]
) -> dict[str, str]:
    return {
        "deltakit": str(FORMAT),
        "kind": "mask",
        "mask": "stored",
        "task": task,
        "shapes": render({name: info.shape for name, info in infos.items()}),
        "rescalers": render(rescalers),
        MARK: mark,
    }
