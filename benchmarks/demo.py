"""The whole of deltakit on a real model: fine-tune, store, inspect, merge, score.

    python -m benchmarks.demo [--quick] [--out DIR]

all-MiniLM-L6-v2 is fine-tuned on three tasks with importance captured, the changes are stored as
deltas, merged in every way deltakit knows, and each merged model is scored on every task's test
rows. A second run reuses the trainings, the store and the scores of models it has seen.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import data, table
from benchmarks.command import Command
from benchmarks.machine import machine
from benchmarks.merges import CONTROLS, MASKED, MERGES, TASKS
from benchmarks.model import Training, base_folder, train, workers
from benchmarks.scores import Scores, write_json
from deltakit.errors import AlreadyThere, DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.tensors.checkpoint import Checkpoint

LONGEST_FIRST = ("rt", "sms", "trec")
FULL, QUICK = Training(), Training(steps=4)
TEST_ROWS, QUICK_TEST_ROWS = 500, 40


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; prints the table and where everything lies."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a few steps a task, few test rows")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: out/demo[-quick]")
    given = parser.parse_args(arguments)
    out: Path = given.out or Path("out/demo-quick" if given.quick else "out/demo")
    os.environ["HF_HUB_OFFLINE"] = "1"
    started = time.perf_counter()
    command = "python -m benchmarks.demo" + (" --quick" if given.quick else "")
    run(out, quick=given.quick, command=command, started=started)


def run(out: Path, *, quick: bool, command: str, started: float) -> None:
    """Train, store, merge and score into `out`."""
    training = QUICK if quick else FULL
    claim(out)
    base, tasks = base_folder(), {task.name: task for task in data.load()}
    exams = [task.examination(QUICK_TEST_ROWS if quick else TEST_ROWS) for task in tasks.values()]
    with workers() as pool:
        scores = Scores(out / "scores.json", exams, pool)
        trained = _train_all(out, training, base, tasks, pool, scores)
        deltakit = Command(out)
        print(f"\n$ cd {out}")
        fill_store(deltakit, out, base, training)
        for merge in (*MERGES, *CONTROLS):
            deltakit(*merge.words(), silent=True)
            scores.start(merge.label, out / merge.folder)
        print("\nscoring what was merged", flush=True)
        rows: list[table.Row] = [
            *scores.rows(["base, zero-shot", *(f"fine-tuned on {task} only" for task in TASKS)]),
            ("merged", {}),
            *scores.rows([merge.label for merge in MERGES]),
            ("controls for klf: the same fusion, importance replaced", {}),
            *scores.rows([merge.label for merge in CONTROLS]),
        ]
    cost = {
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "cpu_minutes": round(cpu_seconds() / 60, 1),
        "trained_now": trained,
    }
    report(out, rows, sizes(out), exams, training, command, cost)


def cpu_seconds() -> float:
    """Return the processor time of this process and those it started, however busy the machine."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def claim(out: Path) -> None:
    """Make `out` the demo's folder; refuse one that holds anything a demo did not write."""
    mark = out / ".demo"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise AlreadyThere(
            "the folder holds other files than a demo's",
            where=str(out),
            remedy="name an empty or new folder with --out",
        )
    for folder in ("models", "merged", "importance"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    mark.touch()


def _train_all(
    out: Path,
    training: Training,
    base: Path,
    tasks: dict[str, data.Task],
    pool: ProcessPoolExecutor,
    scores: Scores,
) -> int:
    print(f"fine-tuning on {', '.join(TASKS)}: {training.steps} steps each", flush=True)
    jobs = {
        name: pool.submit(
            train, tasks[name], training, base, out / "models" / name, _map(out, name)
        )
        for name in LONGEST_FIRST
    }
    # Two processes, three trainings: scoring fills the gap at the end.
    scores.start("base, zero-shot", base)
    trained = 0
    for name, job in jobs.items():
        trained += job.result()
        scores.start(f"fine-tuned on {name} only", out / "models" / name)
    return trained


def _map(out: Path, task: str) -> Path:
    return out / "importance" / f"{task}.safetensors"


def fill_store(deltakit: Command, out: Path, base: Path, training: Training) -> None:
    """Store the three deltas with their importance, and masked copies of them."""
    for task in TASKS:
        importance = ImportanceMap.open(_map(out, task))
        for name, control in (
            ("constant", importance.constant()),
            ("shuffled", importance.shuffled(0)),
        ):
            control.save(_map(out, f"{task}-{name}"), replace=True)
    found = [Checkpoint.open(out / "models" / task).fingerprint() for task in TASKS]
    stamp = {"base": Checkpoint.open(base).fingerprint(), "models": found, **asdict(training)}
    stamp_file = out / "store.json"
    kept = stamp_file.exists() and json.loads(stamp_file.read_text(encoding="utf-8")) == stamp
    if kept and (out / ".deltakit").is_dir():
        print("(the store holds these very models already)", flush=True)
    else:
        shutil.rmtree(out / ".deltakit", ignore_errors=True)
        deltakit("init")
        deltakit("base", "add", "minilm", os.path.relpath(base, out))
        for task in TASKS:
            words = ["--base", "minilm", "--model", f"models/{task}"]
            deltakit("add", task, *words, "--importance", f"importance/{task}.safetensors")
        for task, masked in zip(TASKS, MASKED, strict=True):
            words = ["--base", "minilm", "--model", f"models/{task}"]
            deltakit("add", masked, *words, *shlex.split("--mask sotu --p 0.9 --seed 0"))
        write_json(stamp_file, stamp)
    deltakit("ls")
    deltakit("inspect", *TASKS)


def sizes(out: Path) -> list[dict[str, Any]]:
    """Return each stored delta's task and size in bytes."""
    folder = out / ".deltakit" / "tasks"
    return [
        {
            "task": task,
            "bytes": sum(file.stat().st_size for file in (folder / task).glob("delta-*")),
        }
        for task in (*TASKS, *MASKED)
    ]


def report(
    out: Path,
    rows: list[table.Row],
    stored: list[dict[str, Any]],
    exams: Sequence[data.Task],
    training: Training,
    command: str,
    cost: dict[str, float],
) -> None:
    """Print the table with what it means, and write both beside the artifacts."""
    whole = sum(file.stat().st_size for file in (out / "models" / TASKS[0]).glob("*.safetensors"))
    sized = ", ".join(f"{delta['task']} {table.size(delta['bytes'])}" for delta in stored)
    today = datetime.datetime.now().astimezone().date().isoformat()
    here = machine("torch", "transformers")
    notes = [
        f"Percent right on {len(exams[0].test)} test rows a task (sms: mean recall of its two "
        "classes); one seed, so differences under about two points say nothing. No setting was "
        "chosen on test rows.",
        "klf against its controls: what half/half and shuffled importance reach too is due to "
        "averaging, not to importance.",
        f"Stored deltas, of a model of {table.size(whole)}: {sized}. The -sotu ones keep a random "
        "tenth (--mask sotu --p 0.9).",
        f"{command}, {today}: {cost['minutes']} minutes, {cost['cpu_minutes']} of processor time"
        + ("" if cost["trained_now"] else ", trainings reused")
        + f"; {training.steps} steps a task. {here}.",
        f"Everything lies in {out}: models/, importance/, merged/, the store .deltakit/, "
        "table.txt, results.json.",
    ]
    text = table.render(rows, TASKS) + "\n"
    text += "".join("\n" + textwrap.fill(note, table.WIDTH) + "\n" for note in notes)
    print("\n" + text, end="")
    (out / "table.txt").write_text(text, encoding="utf-8")
    found = {
        "command": command,
        "date": today,
        "machine": here,
        **cost,
        "training": asdict(training),
        "test_rows": {task.name: len(task.test) for task in exams},
        "metric": {task.name: task.metric for task in exams},
        "rows": [{"model": label, **scores} for label, scores in rows if scores],
        "merges": {m.label: " ".join(["deltakit", *m.words()]) for m in (*MERGES, *CONTROLS)},
        "deltas": stored,
        "model_bytes": whole,
    }
    write_json(out / "results.json", found)


if __name__ == "__main__":
    try:
        main()
    except DeltakitError as error:
        sys.exit(f"error: {error}")
