"""What importance decides in klf, and whether the result is better for it than for averaging.

    python -m benchmarks.klf_options [--quick] [--write] [--demo DIR]

The demo's models and importance maps are merged with each option that makes importance bite, beside
the same with shuffled maps, half/half and the running average. No setting is chosen by a score.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import data, demo, page, table
from benchmarks.machine import machine
from benchmarks.model import base_folder, workers
from benchmarks.scores import Scores
from deltakit.errors import DeltakitError, NotFound
from deltakit.importance import ImportanceMap
from deltakit.merging import merge
from deltakit.strategies import get
from deltakit.tensors.checkpoint import Checkpoint

PAGE = Path(__file__).parent.parent / "docs" / "importance.md"
TASKS = tuple(data.TASKS)
MAPS = {"": "own", "shuffled": "shuffled", "constant": "constant"}


@dataclass(frozen=True)
class Case:
    """A row: settings of klf, and whose importance it is given."""

    label: str
    settings: dict[str, Any] = field(default_factory=dict)
    maps: str = ""  # what the importance files are called after the task's name

    def files(self, folder: Path) -> list[Path]:
        """Return the importance map of each task."""
        ending = f"-{self.maps}.safetensors" if self.maps else ".safetensors"
        return [folder / "importance" / f"{task}{ending}" for task in TASKS]


OPTIONS: dict[str, dict[str, Any]] = {
    "klf": {},
    "within=kind": {"within": "kind"},
    "share=parameters": {"share": "parameters"},
    "contrast": {"contrast": True},
    "all three": {"within": "kind", "share": "parameters", "contrast": True},
}
SHARED = {"half": "half/half", "running_mean": "running average"}


def cases(neither: str) -> list[Case]:
    """Return the rows in which what nobody needs is shared in one way, the control first."""
    own = {} if neither == "half" else {"neither": neither}
    found = [Case(SHARED[neither], own, "constant")]
    for label, options in OPTIONS.items():
        found.append(Case(label, {**own, **options}))
        found.append(Case(f"{label}, shuffled", {**own, **options}, "shuffled"))
    return found


def decided(case: Case, folder: Path, base: Checkpoint) -> float:
    """Return the fraction of the parameters that importance gives to the tasks unevenly."""
    shapes = {name: info.shape for name, info in base.infos.items()}
    maps = [ImportanceMap.open(file) for file in case.files(folder)]
    strategy = get("klf", case.settings)
    found = strategy.prepare(maps, shapes)
    even = strategy.prepare([m.constant() for m in maps], shapes)
    sizes = {name: math.prod(shapes[name]) for name in maps[0]}
    return sum(sizes[name] for name in sizes if found[name] != even[name]) / sum(sizes.values())


def measured(folder: Path, base: Path, scores: Scores, neither: str) -> list[table.Row]:
    """Merge, score, and return the rows of one block."""
    rows, opened = cases(neither), Checkpoint.open(base)
    models = [f"{task}={folder / 'models' / task}" for task in TASKS]
    labels = []
    for case in rows:
        files, out = case.files(folder), folder / "merged" / "klf-options"
        merge(models, "klf", out, base=str(base), importance=files, settings=case.settings,
              overwrite=True)  # fmt: skip
        labels.append(f"{case.label:<40}{100 * decided(case, folder, opened):8.1f} %")
        scores.start(labels[-1], out)
        found = scores.rows(labels[-1:])  # one after the other: the folder is used again
        shutil.rmtree(out)
        print(table.render(found, TASKS).splitlines()[-1], flush=True)
    return scores.rows(labels)


def rendered(rows: Sequence[table.Row], command: str, tests: int) -> str:
    """Return the table with what it was made of."""
    notes = [
        f"Percent right on {tests} test rows a task (sms: mean recall of its two classes), one "
        "seed, tensor units: differences under about two points say nothing, and no setting was "
        "chosen on test rows. First column: the part of the parameters whose shares are not those "
        "of a constant map. shuffled: the same merge with each map's scores dealt to other "
        "tensors.",
        f"{command}, {datetime.datetime.now().astimezone().date()}. "
        f"{machine('torch', 'transformers')}.",
    ]
    shown = table.render(rows, TASKS) + "\n"
    return shown + "".join("\n" + textwrap.fill(note, table.WIDTH) + "\n" for note in notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `--write` puts it into docs/importance.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.klf_options", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few test rows; the quick demo's")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="default: out/demo[-quick]")
    given = parser.parse_args(arguments)
    mark = "-quick" if given.quick else ""
    folder: Path = given.demo or Path(f"out/demo{mark}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    missing = [file for maps in MAPS for file in Case("", maps=maps).files(folder)
               if not file.exists()]  # fmt: skip
    if missing:
        raise NotFound(
            "the demo's trainings are not there",
            where=str(missing[0]),
            remedy=f"make them first: python -m benchmarks.demo{' --quick' * given.quick}",
        )
    tests = demo.QUICK_TEST_ROWS if given.quick else demo.TEST_ROWS
    exams = [task.examination(tests) for task in data.load()]
    rows: list[table.Row] = []
    with workers(1) as pool:
        scores = Scores(folder / "scores.json", exams, pool)
        for neither, label in SHARED.items():
            rows.append((f"important to nobody: {label}", {}))
            rows += measured(folder, base_folder(), scores, neither)
    command = f"python -m benchmarks.klf_options{' --quick' * given.quick}"
    shown = rendered(rows, command, tests)
    print("\n" + shown, end="")
    if given.write:
        page.write(PAGE, "klf options", shown)


if __name__ == "__main__":
    try:
        main()
    except DeltakitError as error:
        raise SystemExit(f"error: {error}") from None
