"""Merging through running tensors: those of earlier tasks are read, the new ones written."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.dtypes import itemsize, torch_dtype
from deltakit.engine.aside import path
from deltakit.engine.keeping import Keeping
from deltakit.engine.output import Output
from deltakit.engine.plan import Plan
from deltakit.engine.state import FOLDER, part_name, write_note
from deltakit.lazy import LazyDelta, LazyDeltas
from deltakit.strategies import Stack
from deltakit.tensors.digest import CHUNK
from deltakit.tensors.files import Files
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.new_file import NewFile

if TYPE_CHECKING:
    from torch import Tensor


class Fold:
    """Merges any block of any parameter, shared by all threads."""

    def __init__(self, plan: Plan, keeping: Keeping, output: Output) -> None:
        self._plan, self._keeping, self._output = plan, keeping, output
        self._earlier = plan.recipe.tasks[: -len(plan.experts)]
        self._known = keeping.before.parameters if keeping.before else set()
        self._own = threading.local()

    def merge(self, stack: Stack) -> Tensor:
        """Return the merged delta of the earlier tasks and the stack's, and keep what made it."""
        effective = self._plan.of(stack.name)
        running = effective.method.add(self._before(stack), stack)
        self._write(stack, running)
        return effective.method.result(running, effective.weights, stack)

    def _before(self, stack: Stack) -> Mapping[str, Tensor]:
        """Return the running tensors of the earlier tasks in the stack's slice."""
        before = self._keeping.before
        if before is None:
            return {}
        if stack.name not in self._known:
            return self._plan.of(stack.name).method.add({}, self._unchanged(stack))
        return {
            part: self._read(part_name(stack.name, part), info, stack)
            for part, info in self._keeping.parts[stack.name].items()
        }

    def _read(self, name: str, info: TensorInfo, stack: Stack) -> Tensor:
        import torch

        before = self._keeping.before
        assert before is not None
        whole = info.shape != stack.shape
        start = 0 if whole else stack.start
        count = info.numel if whole else stack.lazy.shape[0]
        raw = torch.empty(count * itemsize(info.dtype), dtype=torch.uint8)
        block = before.tensors.block(name, start, start + count, raw)
        return block.reshape(info.shape) if whole else block

    def _unchanged(self, stack: Stack) -> Stack:
        """Return the earlier tasks' deltas of a parameter that none of them changes: zeros."""
        import torch

        lazy = stack.lazy
        zeros = LazyDelta(torch.zeros(lazy.shape, dtype=torch_dtype(lazy.dtype)))
        return dataclasses.replace(
            stack,
            deltas=LazyDeltas([zeros] * len(self._earlier), lazy.shape, lazy.dtype),
            weights=self._plan.of(stack.name).weights[: len(self._earlier)],
            tasks=tuple(task.name for task in self._earlier),
            whole=None,
            model=None,
        )

    def _write(self, stack: Stack, running: Mapping[str, Tensor]) -> None:
        import torch

        waiting: list[Future[None]] = getattr(self._own, "waiting", [])
        for done in waiting:  # at most one block of each thread is on its way
            done.result()
        self._own.waiting = []
        for part, info in self._keeping.parts[stack.name].items():
            tensor = running[part].contiguous()
            assert tensor.dtype == torch_dtype(info.dtype)
            start = stack.start * itemsize(info.dtype) if info.shape == stack.shape else 0
            data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            name = part_name(stack.name, part)
            self._own.waiting.append(self._output.write(name, start, data))


@contextlib.contextmanager
def folding(
    plan: Plan, folder: Path, files: Files, progress: Callable[[str, int], None] | None
) -> Iterator[Fold | None]:
    """Give what merges blocks and keeps the running state in `folder`, or None for no state."""
    if plan.keeping is None:
        yield None
        return
    files.make_folder(folder / FOLDER)
    with Output(folder, plan.keeping.shards, files, progress) as output:
        yield Fold(plan, plan.keeping, output)


def finish(plan: Plan, folder: Path, files: Files) -> None:
    """Bring over the earlier tasks' heads, and vouch for all, when everything else is written."""
    keeping = plan.keeping
    if keeping is None:
        return
    heads = [str(path(task)) for task in plan.heads]
    merged = [time.time_ns()] * len(plan.recipe.tasks)
    if keeping.before is not None:
        earlier = keeping.before.note.times(keeping.before.recipe)
        merged[: len(earlier)] = earlier
        keeping.before.tensors.check_unchanged()
        for name in keeping.before.heads:
            files.make_folder((folder / name).parent)
            _copy(keeping.before.folder / name, folder / name, files)
            heads.append(name)
    names = [*heads, *(shard.file_name for shard in (*plan.shards, *keeping.shards))]
    write_note(folder, names, keeping.scored, keeping.scores, merged, files)


def _copy(source: Path, target: Path, files: Files) -> None:
    """Write a file of any size once more."""
    fd = files.open(source)
    try:
        size = files.state(fd).size
        buffer = memoryview(bytearray(min(CHUNK, size)))
        with NewFile(target, size, files=files) as file:
            for start in range(0, size, CHUNK):
                part = buffer[: min(CHUNK, size - start)]
                files.read(fd, part, start, str(source))
                file.write(part, start)
    finally:
        files.close(fd)
