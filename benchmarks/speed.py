"""What merges cost: each in processes of its own, in turn with the limit of the same minute."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from blake3 import blake3

from benchmarks import limit
from benchmarks.cases import Case, Inputs
from benchmarks.limit import Limit
from benchmarks.process import Process
from deltakit.errors import DeltakitError

RUNNER = Path(__file__).with_name("runner.py")
LIMITS = 5  # measurements of the limit a merge, at least


@dataclass(frozen=True)
class Run:
    """One process: `wall`, `cpu` and `peak` of the whole of it; `merge` without its start."""

    wall: float
    cpu: float
    peak: int  # bytes of anonymous memory
    merge: float
    start: float  # interpreter and libraries loaded
    start_cpu: float
    torch: bool  # loaded at the end
    digest: str = ""  # of the output's weight files


@dataclass
class Cost:
    """A merge's runs, with the limits measured between them."""

    name: str
    size: str
    models: int
    floor: Run
    bytes_read: int
    bytes_written: int
    runs: list[Run] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)

    def middle(self, what: str) -> float:
        """Return the median over the runs of a field of `Run`."""
        return median(getattr(run, what) for run in self.runs)

    @property
    def above(self) -> float:
        """Bytes of anonymous memory above that of a process that only loads the libraries."""
        return self.middle("peak") - self.floor.peak

    @property
    def limit(self) -> tuple[float, float, float]:
        """The least, the median and the greatest limit."""
        found = sorted(limit.seconds for limit in self.limits)
        return found[0], median(found), found[-1]

    @property
    def ratio(self) -> float:
        """How many times the limit the merge takes."""
        return self.middle("merge") / self.limit[1]

    def check(self) -> None:
        """Raise DeltakitError when runs gave different bytes: then they did not do the same."""
        if len({each.digest for each in self.runs}) > 1:
            raise DeltakitError("two runs of one merge gave different bytes", where=self.name)

    def as_dict(self) -> dict[str, Any]:
        """Return the medians and everything they come from, for JSON."""
        low, mid, high = self.limit if self.limits else (None, None, None)
        return {
            **{key: self.middle(key) for key in ("wall", "cpu", "peak", "merge", "start")},
            "above_floor": self.above,
            "limit": {"min": low, "median": mid, "max": high},
            "ratio": self.ratio if self.limits else None,
            "digest": self.runs[0].digest,
            **asdict(self),
            "limits": [found.as_dict() for found in self.limits],
        }


def cost(
    case: Case, inputs: Inputs, repeats: int, floor: Run, work: Path, limits: int = LIMITS
) -> Cost:
    """Measure one merge `repeats` times, and the limit between the runs, at least `limits` times.

    With `limits` 0 it is not measured at all.
    """
    files, found = case.files(inputs), _cost(case, inputs, floor)
    limit.read(files)  # into the page cache
    for number in range(max(limits, repeats)):
        progress(f"{case.name}, {found.models} models of {found.size}: round {number + 1}")
        if limits:
            found.limits.append(limit.measure(files, inputs.size, work))
        if number < repeats:
            found.runs.append(run(case.words(inputs), work, loads=case.loads))
    found.check()
    return found


def costs_in_turn(
    cases: Sequence[Case], inputs: Inputs, repeats: int, floors: Mapping[str, Run], work: Path
) -> list[Cost]:
    """Measure merges that are to be compared: each once, then each once more, `repeats` times."""
    costs = [_cost(case, inputs, floors[case.loads]) for case in cases]
    for number in range(repeats):
        progress(f"round {number + 1}, {len(inputs.experts)} models of {inputs.shape.name}")
        for case, found in zip(cases, costs, strict=True):
            limit.read(case.files(inputs))
            found.runs.append(run(case.words(inputs), work, loads=case.loads))
    for found in costs:
        found.check()
    return costs


def _cost(case: Case, inputs: Inputs, floor: Run) -> Cost:
    read = sum(path.stat().st_size for path in case.files(inputs))
    return Cost(case.name, inputs.shape.name, len(inputs.experts), floor, read, inputs.size)


def floor(work: Path, times: int, loads: str) -> Run:
    """Return the median cost of a process that loads the libraries and does nothing."""
    runs = (run([], work, loads=loads) for _ in range(times))
    return sorted(runs, key=lambda found: found.wall)[times // 2]


def run(words: Sequence[str], work: Path, *, loads: str = "") -> Run:
    """Run a deltakit command in a process of its own; what it merged is looked at and deleted.

    Before the merge's clock starts deltakit is loaded, and torch with `--torch`; with `--bare` all
    is left to the command, as the installed one does.
    """
    out, notes = work / "out", work / "notes.json"
    command = [sys.executable, "-P", RUNNER, notes, *([loads] if loads else []), *words]
    process = Process.run([*command, "--out", out] if words else command)
    noted = json.loads(notes.read_text())
    made = digest(out) if out.exists() else ""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what is still to be written must not burden the next measurement
    return Run(
        wall=process.wall,
        cpu=process.cpu,
        peak=process.peak,
        merge=noted["done"] - noted["ready"],
        start=noted["ready"] - process.began,
        start_cpu=noted["start_cpu"],
        torch=noted["torch"],
        digest=made,
    )


def digest(folder: Path) -> str:
    """Return one digest of a folder's weight files and their names."""
    whole = blake3()
    for path in sorted(folder.glob("*.safetensors")):
        whole.update(path.name.encode())
        whole.update_mmap(path)
    return whole.hexdigest()


def progress(text: str) -> None:
    """Say on stderr what is done now."""
    print(text, file=sys.stderr, flush=True)
