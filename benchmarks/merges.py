"""The rows of the demo's table: every way to merge its deltas, and what klf is compared with."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from benchmarks import data

TASKS = tuple(data.TASKS)
MASKED = tuple(f"{task}-sotu" for task in TASKS)


@dataclass(frozen=True)
class Merge:
    """A row of the table: which deltas are merged, with which options of `deltakit merge`."""

    label: str
    options: str
    tasks: tuple[str, ...] = TASKS
    importance: str | None = None

    @property
    def folder(self) -> str:
        """Where the merged model goes, below the demo's folder."""
        return "merged/" + re.sub(r"[^a-z0-9.]+", "-", self.label)

    def words(self) -> list[str]:
        """Return the arguments of `deltakit` that make it; one importance file a task, in order."""
        words = ["merge", *self.tasks, *shlex.split(self.options)]
        for task in self.tasks if self.importance else ():
            words += ["--importance", f"importance/{task}-{self.importance}.safetensors"]
        return [*words, "--out", self.folder, "--overwrite"]


# Defaults, or values of the literature; none was chosen by looking at a test row. Sums of three
# deltas are halved; 5 is that half times the 1 / (1 - p) of masks that kept a tenth.
MERGES = (
    Merge("average", "--strategy average"),
    Merge("task_arithmetic, scale .5", "--strategy task_arithmetic --scale 0.5"),
    Merge("ties, density .2", "--strategy ties --set density=0.2"),
    Merge("dare, p .9, scale .5", "--strategy dare --set p=0.9 --scale 0.5 --seed 0"),
    Merge("sotu, p auto = 2/3", "--strategy sotu --seed 0"),
    Merge("stored sotu masks, p .9, scale 5", "--strategy task_arithmetic --scale 5", MASKED),
    Merge("klf static", "--strategy klf"),
    Merge("klf adaptive", "--strategy klf --set fusion=adaptive"),
    Merge("klf static, scale 2", "--strategy klf --scale 2"),
)
CONTROLS = (
    Merge("half/half", "--strategy klf", importance="constant"),
    Merge("half/half, scale 2", "--strategy klf --scale 2", importance="constant"),
    Merge("running average", "--strategy klf --set neither=running_mean", importance="constant"),
    Merge("klf static, shuffled", "--strategy klf", importance="shuffled"),
    Merge("klf adaptive, shuffled", "--strategy klf --set fusion=adaptive", importance="shuffled"),
)
