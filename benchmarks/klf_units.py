"""Whether finer units let importance decide in klf: tensors, heads, rows and single entries.

    python -m benchmarks.klf_units [--write] [--demo DIR]

The demo's models, with importance measured afterwards on training rows, once entry by entry and
averaged over each kind of unit; beside each the same merge with the units' scores dealt to others.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import data, demo, page, table
from benchmarks.klf_options import PAGE, TASKS
from benchmarks.machine import machine
from benchmarks.model import base_folder, workers
from benchmarks.scores import Scores
from deltakit.errors import DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.learn.head_units import Heads
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.scores import row_scores
from deltakit.merging import merge
from deltakit.tensors.checkpoint import Checkpoint

ROWS, BATCH = 320, 16
UNITS = ("tensor", "head", "row", "element")
SETTINGS = {"neither": "running_mean"}


def measure(task: data.Task, model: Path, file: Path) -> None:
    """Write a task's importance, entry by entry, over training rows at fixed weights."""
    scorer = task.open(model, demo.FULL.max_tokens)
    scorer.encoder.eval()
    capture = KlfImportance.attach(
        scorer.encoder,
        units="element",
        window=ROWS // BATCH,
        names=[n for n, _ in scorer.encoder.named_parameters() if n in Checkpoint.open(model)],
    )
    for start in range(0, ROWS, BATCH):
        texts, targets = zip(*task.train[start : start + BATCH], strict=True)
        scorer.loss(texts, task.answers, targets).backward()
        capture.step()
        scorer.encoder.zero_grad()
    capture.save(file, task=task.name, replace=True)
    print(f"{task.name}: measured on {ROWS} rows", flush=True)


def averaged(found: ImportanceMap, units: str, heads: Heads) -> ImportanceMap:
    """Return a map of coarser units: the mean over each of them."""
    if units == "head":
        scores = heads.scores(found.items())
    elif units == "row":
        scores = {name: row_scores(each) for name, each in found.items()}
    elif units == "tensor":
        scores = {n: each.mean(dtype=torch.float64).float() for n, each in found.items()}
    else:
        scores = dict(found)
    return ImportanceMap(scores, task=found.task, units=units)


def dealt(found: ImportanceMap, heads: Heads, seed: int) -> ImportanceMap:
    """Return the map with the scores of its units dealt to other units at random."""
    same = {name: names for names in heads.blocks.values() for name in names[1:]}
    blocks = {} if found.units != "head" else same
    own = [name for name in found if name not in blocks]
    pool = torch.cat([found[name].reshape(-1) for name in own])
    draw = torch.Generator().manual_seed(seed)
    pool = pool[torch.randperm(len(pool), generator=draw)]
    parts = pool.split([found[name].numel() for name in own])
    scores = {n: part.reshape(found[n].shape) for n, part in zip(own, parts, strict=True)}
    for name, names in blocks.items():
        scores[name] = scores[names[0]].reshape(found[name].shape)
    return ImportanceMap(scores, task=found.task, units=found.units)


def measured(folder: Path, base: Path, scores: Scores) -> Iterator[table.Row]:
    """Merge by each kind of unit, score, and yield the rows."""
    maps = [ImportanceMap.open(folder / "importance" / f"{t}-entries.safetensors") for t in TASKS]
    shapes = {name: tuple(each.shape) for name, each in maps[0].items()}
    heads = Heads(shapes, Checkpoint.open(base).config()["num_attention_heads"])
    models = [f"{task}={folder / 'models' / task}" for task in TASKS]
    out = folder / "merged" / "klf-units"
    files = [folder / "importance" / f"{task}-units.safetensors" for task in TASKS]
    for units in UNITS:
        for label in (units, f"{units}, shuffled"):
            for seed, (found, file) in enumerate(zip(maps, files, strict=True)):
                coarse = averaged(found, units, heads)
                given = coarse if label == units else dealt(coarse, heads, seed)
                given.save(file, replace=True)
            merge(models, "klf", out, base=str(base), importance=files, settings=SETTINGS,
                  overwrite=True)  # fmt: skip
            scores.start(label, out)
            found_row = scores.rows([label])
            shutil.rmtree(out)
            print(table.render(found_row, TASKS).splitlines()[-1], flush=True)
            yield from found_row
    for file in files:
        file.unlink()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; `--write` puts it into docs/importance.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.klf_units", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--demo", type=Path, metavar="DIR", default=Path("out/demo"))
    given = parser.parse_args(arguments)
    folder: Path = given.demo
    os.environ["HF_HUB_OFFLINE"] = "1"
    tasks = data.load()
    with workers(1) as pool:
        for task in tasks:
            file = folder / "importance" / f"{task.name}-entries.safetensors"
            if not file.exists():
                few = replace(task, train=task.train[:ROWS], test=())
                pool.submit(measure, few, folder / "models" / task.name, file).result()
        exams = [task.examination(demo.TEST_ROWS) for task in tasks]
        rows = list(measured(folder, base_folder(), Scores(folder / "scores.json", exams, pool)))
    notes = [
        f"klf with neither=running_mean; the running average is 83.4 (table above), on the same "
        f"{demo.TEST_ROWS} test rows a task. Importance: KlfImportance over {ROWS} training rows a "
        f"task at the fine-tuned weights, {ROWS // BATCH} steps, a window of all of them; once "
        "entry by entry, and averaged. shuffled: the units' scores dealt to others. One seed.",
        f"python -m benchmarks.klf_units, {datetime.datetime.now().astimezone().date()}. "
        f"{machine('torch', 'transformers')}.",
    ]
    shown = table.render(rows, TASKS) + "\n"
    shown += "".join("\n" + textwrap.fill(note, table.WIDTH) + "\n" for note in notes)
    print("\n" + shown, end="")
    if given.write:
        page.write(PAGE, "klf units", shown)


if __name__ == "__main__":
    try:
        main()
    except DeltakitError as error:
        raise SystemExit(f"error: {error}") from None
