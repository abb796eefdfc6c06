"""Which learning rate lets two image models be merged, on rows held out of the training rows.

    python -m benchmarks.vision_rate [--steps N] [--rows N] [--out DIR] RATE ..

No test row is read. Each rate is scored by the models of its own and by what `average` makes of
them; a second run reuses the trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import table, vision_data, vision_model
from benchmarks.model import Training, evaluate, train
from deltakit.merging import merge


def main(arguments: Sequence[str] | None = None) -> None:
    """Print accuracies on the held-out rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision_rate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rates", nargs="+", type=float, metavar="RATE")
    parser.add_argument("--steps", type=int, default=vision_model.STEPS, metavar="N")
    parser.add_argument("--rows", type=int, default=300, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("out/vision-rate"), metavar="DIR")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    base = vision_model.base_folder()
    tasks = vision_data.load(base)
    exams = [replace(task, train=(), test=task.validation[: given.rows]) for task in tasks]
    rows: list[table.Row] = [("base", evaluate(base, exams))]
    for rate in given.rates:
        training, folders = Training(lr=rate, steps=given.steps), []
        for task in tasks:
            folder = given.out / f"{task.name}-{rate:g}-{given.steps}"
            train(task, training, base, folder, folder.with_suffix(".importance.safetensors"))
            rows.append((f"{rate:g}, {task.name}", evaluate(folder, exams)))
            folders.append(str(folder))
        merged = given.out / "merged"
        merge(folders, "average", merged, base=str(base), overwrite=True)
        rows.append((f"{rate:g}, average", evaluate(merged, exams)))
        print(table.render(rows, [task.name for task in tasks]), flush=True)


if __name__ == "__main__":
    main()
