"""Going on with a merge that was interrupted: which shards are finished, and what they held."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import msgspec

from deltakit.engine.folder import input_paths
from deltakit.engine.plan import Plan
from deltakit.engine.report import Counts, Tally
from deltakit.engine.shards import Shard
from deltakit.errors import BadFile
from deltakit.tensors.files import Files, read_whole
from deltakit.tensors.new_file import write_whole

_COUNTS = ".counts.json"


def key(plan: Plan, allow_nonfinite: bool, device: str | None = None) -> str:
    """Return 16 digits that stand for a merge: its recipe, its inputs as they are, its shards.

    Threads, block size and memory are not in it: they change no byte. Whether NaN may pass is: a
    file that was let through is not to be taken by a merge that would refuse it. So is what might
    round otherwise: the device, and the release.
    """
    from blake3 import blake3

    opened = [*plan.base.files, *(file for e in plan.experts for file in e.source.files)]
    others = {path for path in input_paths(plan) if path.is_file()} - {f.path for f in opened}
    told = [
        metadata.version("deltakit-merge"),
        plan.recipe.encode().decode(),
        [[str(file.path), *file.state] for file in opened],
        [[str(path), *_state(path)] for path in sorted(others)],
        [[shard.file_name, sorted(shard.infos.items())] for shard in plan.shards],
        allow_nonfinite,
        device,
        None if plan.vocabulary is None else plan.vocabulary.digest,
    ]
    return blake3(msgspec.json.encode(told)).hexdigest()[:16]


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


class Interrupted:
    """The folder of an interrupted merge: shards that are complete, and the counts of each.

    A shard has its name only when it is complete and durable; its counts are written before.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files

    def finished(self, plan: Plan, tally: Tally) -> list[Shard]:
        """Return the shards that are there already, and count what they hold.

        All else in the folder is deleted: shards that were being written, files beside them.
        """
        found = []
        for shard in plan.shards:
            path = self._counts(shard)
            if not (self._files.exists(self._folder / shard.file_name) and path.exists()):
                continue
            try:
                told = json.loads(read_whole(path, self._files))  # which knows NaN and infinity
                counts = msgspec.convert(told, dict[str, Counts])
            except ValueError:  # msgspec's too
                raise BadFile(
                    "what an interrupted merge left is damaged",
                    where=str(path),
                    remedy=f"delete {self._folder} and merge again",
                ) from None
            tally.restore(counts)
            found.append(shard)
        kept = {shard.file_name for shard in found} | {self._counts(shard).name for shard in found}
        for path in self._files.list(self._folder):
            if path.name not in kept:
                (self._files.delete_folder if path.is_dir() else self._files.delete)(path)
        return found

    def finish(self, shard: Shard, tally: Tally) -> None:
        """Write down the counts of a shard that gets its name next."""
        data = json.dumps(msgspec.to_builtins(tally.of(shard.infos))).encode()
        write_whole(self._counts(shard), data, replace=True, files=self._files)

    def clear(self, plan: Plan) -> None:
        """Delete what was written down: the folder is about to be the result."""
        for shard in plan.shards:
            path = self._counts(shard)
            if self._files.exists(path):
                self._files.delete(path)

    def _counts(self, shard: Shard) -> Path:
        return self._folder / (shard.file_name + _COUNTS)
