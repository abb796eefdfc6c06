"""How well every strategy merges real models, each at its default settings.

    python -m benchmarks.strategy_accuracy [--quick] [--write] [--demo DIR] [--out DIR]

Text tasks are the demo's (its trainings are used where they are there); image tasks are trained
here, the same way. Importance maps come from each task's training rows. Merged models are scored
on test rows and thrown away; no setting is ever chosen by a score. A second run reuses the
trainings, the maps and the scores of weights it has seen.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import textwrap
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import data, demo, page, table, vision_data, vision_model
from benchmarks.machine import machine
from benchmarks.model import Training, base_folder, train, workers
from benchmarks.scores import Scores
from deltakit.importance import ImportanceMap
from deltakit.learn.fisher import fisher
from deltakit.learn.gram import gram_of
from deltakit.merging import merge
from deltakit.strategies import find, names
from deltakit.tensors.checkpoint import Checkpoint

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
MEASURED, QUICK_MEASURED = 40, 4
TEST_ROWS, TEST_IMAGES = 500, 200


@dataclass(frozen=True)
class Bench:
    """Models of one base, fine-tuned on some tasks, that are merged and scored together."""

    base: Path
    tasks: Sequence[data.Task]
    folder: Path
    training: Training
    measured: int
    scores: Scores

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def model(self, task: str) -> Path:
        """Return the folder of the model fine-tuned on a task."""
        return self.folder / "models" / task

    def importance(self, task: str, kind: str) -> Path:
        """Return the file of a task's importance map: of its training, or measured afterwards."""
        if kind == "klf":
            return self.folder / "importance" / f"{task}.safetensors"
        weights = Checkpoint.open(self.model(task)).fingerprint()[:8]
        return self.folder / "importance" / f"{task}-{weights}-{self.measured}.{kind}.safetensors"

    def prepare(self, pool: ProcessPoolExecutor) -> None:
        """Train what is not trained and measure what is not measured."""
        jobs = [
            pool.submit(
                train, task, self.training, self.base, self.model(n), self.importance(n, "klf")
            )
            for task, n in zip(self.tasks, self.names, strict=True)
        ]
        for job in jobs:
            job.result()
        for task in self.tasks:
            for kind in ("fisher", "gram"):
                file = self.importance(task.name, kind)
                if not file.exists():
                    few = replace(task, train=task.train[: self.measured], test=())
                    pool.submit(measure, few, self.model(task.name), self.base, kind, file).result()

    def controls(self) -> list[table.Row]:
        """Return the scores of the base and of each task's own model."""
        labels = ["base, zero-shot", *(f"fine-tuned on {name}" for name in self.names)]
        for label, folder in zip(labels, [self.base, *map(self.model, self.names)], strict=True):
            self.scores.start(label, folder)
        return self.scores.rows(labels)

    def merge(self, strategy: str, tasks: list[str]) -> Path:
        """Merge tasks with one strategy, start scoring, and return the folder."""
        method, out = find(strategy), self.folder / "merged" / strategy
        kind = "klf" if strategy == "klf" else "gram" if method.statistic == "gram" else "fisher"
        maps = [self.importance(task, kind) for task in tasks] if method.needs_importance else []
        models = [str(self.model(task)) for task in tasks]
        merge(models, strategy, out, base=str(self.base), importance=maps, overwrite=True)
        self.scores.start(strategy, out)
        return out


def measure(task: data.Task, folder: Path, base: Path, kind: str, file: Path) -> None:
    """Write a task's Fisher diagonal, entry by entry, or its Gram matrices."""
    scorer = task.open(folder, demo.FULL.max_tokens)

    def loss(rows: Sequence[data.Row]) -> Any:
        inputs, targets = zip(*rows, strict=True)
        return scorer.loss(inputs, task.answers, targets)

    names = Checkpoint.open(folder).infos
    measuring: Any = gram_of if kind == "gram" else fisher
    units: dict[str, Any] = {} if kind == "gram" else {"units": "element"}
    found: ImportanceMap = measuring(
        scorer.encoder, loss, task.train, task=task.name, names=names, **units
    )
    found.save(file, replace=True)
    print(f"{task.name}: {kind} measured on {len(task.train)} rows", flush=True)


def rows(benches: Sequence[Bench]) -> list[table.Row]:
    """Score everything; a strategy for two models merges the first two tasks of each bench."""
    zero_shot: dict[str, float] = {}
    own: list[table.Row] = []
    for bench in benches:
        (_, scores), *singles = bench.controls()
        zero_shot |= scores
        own += singles
    found: list[table.Row] = [("base", zero_shot), *own, ("merged", {})]
    for name in names():
        most, scores = find(name).most, {}
        tasks = [bench.names[:most] for bench in benches]
        folders = [bench.merge(name, few) for bench, few in zip(benches, tasks, strict=True)]
        for bench, few, folder in zip(benches, tasks, folders, strict=True):
            ((_, every),) = bench.scores.rows([name])
            scores |= {task: every[task] for task in few}
            shutil.rmtree(folder)
        found.append((name if most is None else f"{name} (first {most})", scores))
        print(table.render(found[-1:], *(b.names for b in benches)).splitlines()[-1], flush=True)
    return found


def rendered(found: Sequence[table.Row], benches: Sequence[Bench], quick: bool) -> str:
    """Return the table with what it was made of."""
    text, images = benches
    texts, pictures = [demo.QUICK_TEST_ROWS] * 2 if quick else [TEST_ROWS, TEST_IMAGES]
    fitted = text.training
    notes = [
        f"Percent right on {texts} test texts (sms: mean recall of its two classes) and "
        f"{pictures} test images a task. One seed: differences under about three points say "
        "nothing. Every strategy at its defaults, scale 1, none tuned; - where no model of the "
        "task was merged (two models at most). Left: "
        "all-MiniLM-L6-v2 (22.7 M parameters). Right: a ViT-S/14 (22.1 M) of DINOv2's layout that "
        "was trained on to find salient objects, images at 56 pixels; each task's head is a linear "
        f"probe of the base, made of {vision_data.PROBED} training rows and frozen. The base is "
        "scored zero-shot on texts, by the probes on images.",
        f"{fitted.steps} steps of {fitted.batch} a text task at rate {fitted.lr:g}, "
        f"{images.training.steps} an image task at {images.training.lr:g} (1e-05 undoes the base), "
        "as seen on training rows that no model is trained on (python -m benchmarks.vision_rate). "
        "fisher, ewc and importance_weighted use the Fisher diagonal of "
        f"{text.measured} training rows, entry by entry; regmean Gram matrices of the same "
        "rows; klf what was captured in training; emr is the unified delta without the tasks' "
        "masks.",
        f"python -m benchmarks.strategy_accuracy{' --quick' if quick else ''}, "
        f"{datetime.datetime.now().astimezone().date()}. {machine('torch', 'transformers')}.",
    ]
    shown = table.render(found, *(bench.names for bench in benches)) + "\n"
    return shown + "".join("\n" + textwrap.fill(note, table.WIDTH) + "\n" for note in notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `--write` puts it into docs/methods.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strategy_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a few steps a task, few test rows")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that score")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="default: out/demo[-quick]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: out/accuracy[-quick]")
    given = parser.parse_args(arguments)
    mark = "-quick" if given.quick else ""
    os.environ["HF_HUB_OFFLINE"] = "1"
    training = demo.QUICK if given.quick else demo.FULL
    image_training = replace(training, lr=vision_model.RATE)
    if not given.quick:
        image_training = replace(image_training, steps=vision_model.STEPS)
    text, images = base_folder(), vision_model.base_folder()
    demo_out, out = (
        folder or Path(f"out/{name}{mark}")
        for name, folder in (("demo", given.demo), ("accuracy", given.out))
    )
    sets: list[tuple[Path, Sequence[data.Task], Training, Path, int]] = [
        (text, data.load(), training, demo_out, TEST_ROWS),
        (images, vision_data.load(images), image_training, out, TEST_IMAGES),
    ]
    benches = []
    with workers(given.workers) as pool:
        for base, tasks, fitting, folder, full in sets:
            demo.claim(folder)
            test_rows = demo.QUICK_TEST_ROWS if given.quick else full
            exams = [task.examination(test_rows) for task in tasks]
            scores = Scores(folder / "strategy_scores.json", exams, pool)
            measured = QUICK_MEASURED if given.quick else MEASURED
            benches.append(Bench(base, tasks, folder, fitting, measured, scores))
            benches[-1].prepare(pool)
        found = rows(benches)
    shown = rendered(found, benches, given.quick)
    print("\n" + shown, end="")
    if given.write:
        page.write(PAGE, "accuracy", shown)


if __name__ == "__main__":
    main()
