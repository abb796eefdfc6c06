"""mergekit beside deltakit: the same merges of the same models, process against process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import limit
from benchmarks.cases import Case, Inputs
from benchmarks.process import Process
from benchmarks.speed import Run, progress, run
from deltakit.errors import DeltakitError

PINNED = "mergekit==0.1.5"
# Our merge: its method, and what it calls the settings.
METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "average": ("linear", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "slerp": ("slerp", {"t": 0.5}),
    "dare": ("dare_linear", {"density": 0.1}),
    "dare_ties": ("dare_ties", {"density": 0.1}),
    "ties": ("ties", {"density": 0.2}),
}
OPTIONS = ("--no-copy-tokenizer", "--no-lazy-unpickle", "--no-cuda", "--random-seed", "0")


@dataclass
class Race:
    """A merge done by both, in turn."""

    name: str
    method: str
    size: str
    models: int
    ours: list[Run] = field(default_factory=list)
    theirs: list[Process] = field(default_factory=list)

    def middle(self, runs: Sequence[Run] | Sequence[Process], what: str) -> float:
        """Return the median over runs of `wall`, `cpu` or `peak`."""
        return median(getattr(each, what) for each in runs)

    @property
    def speed_up(self) -> float:
        """How many times as long the peer takes, whole process against whole process."""
        return self.middle(self.theirs, "wall") / self.middle(self.ours, "wall")

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "speed_up": self.speed_up}


def race(case: Case, inputs: Inputs, repeats: int, program: Path, work: Path) -> Race:
    """Merge with the peer `repeats` times, with deltakit before and after each, inputs warm.

    The machine's speed changes within minutes, and the peer takes some of them. Inputs are read
    before every run: what is not used for so long may have left the page cache.
    """
    method, settings = METHODS[case.name]
    models = len(inputs.experts[: case.experts])
    found = Race(case.name, method, inputs.shape.name, models)
    files = work / "peer.yaml"
    files.write_text(config(method, settings, inputs))

    def merge() -> Run:
        limit.read(case.files(inputs))
        return run(case.words(inputs), work)

    for number in range(repeats):
        progress(f"{case.name} beside {method}, {inputs.shape.name}: round {number + 1}")
        found.ours.append(merge())
        limit.read(case.files(inputs))
        found.theirs.append(Process.run([program, files, work / "out", *OPTIONS]))
        shutil.rmtree(work / "out")
        os.sync()
        found.ours.append(merge())
    return found


def config(method: str, settings: dict[str, float], inputs: Inputs) -> str:
    """Return the peer's configuration: JSON, which is YAML too."""
    given: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    experts = [str(path.resolve()) for path in inputs.experts]
    if method == "slerp":  # of two, the first of which it calls the base
        given |= {"base_model": experts[0], "models": [{"model": path} for path in experts[:2]]}
        given["parameters"] = settings
    else:
        each = {"weight": 1.0, **settings}
        given["models"] = [{"model": path, "parameters": each} for path in experts]
        if method != "linear":
            given["base_model"] = str(inputs.base.resolve())
    return json.dumps(given, indent=2) + "\n"


def install(cache: Path) -> Path:
    """Return the peer's command, installed by pip in a virtual environment of its own."""
    home = cache / "peer" / PINNED.replace("==", "-")
    stamp = home / "ready"
    if not stamp.exists():
        progress(f"installing {PINNED} in {home}")
        python = home / "bin" / "python"
        # torch first and alone: the same version as ours, and nothing later replaces it.
        torch = version("torch").partition("+")[0]
        _do(sys.executable, "-m", "venv", "--clear", home)
        for wanted in (f"torch=={torch}", PINNED):
            _do(python, "-m", "pip", "install", "--quiet", wanted)
        stamp.touch()
    return home / "bin" / "mergekit-yaml"


def _do(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeltakitError(
            "the peer could not be installed",
            where=" ".join(map(str, words)),
            got=done.stderr.strip()[-1000:],
            remedy="check that a package index is reachable, or leave out --peer",
        )
