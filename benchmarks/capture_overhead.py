"""What capture of importance costs in a training, and what scoring fewer steps does to a ranking.

    python -m benchmarks.capture_overhead [--quick] [--json FILE] [--write PAGE]

all-MiniLM-L6-v2 is fine-tuned on the demo's tasks. Every batch is trained on once without capture
and once with each way of it, in turn, so that what else the machine does falls on all of them;
one figure is the sum over a round's batches, and the median of the rounds is shown. Then one more
fine-tuning is followed at every step, every 2nd, 4th and 8th at once, and the maps are compared.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import data, page, table
from benchmarks.machine import machine
from benchmarks.model import Training, base_folder, batches
from benchmarks.ranking import Agreement
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.models import quiet
from deltakit.learn.option_scoring import OptionScorer

WAYS: dict[str, dict[str, Any]] = {
    "every step": {},
    "every 2nd": {"every": 2},
    "every 4th": {"every": 4},
    "every 8th": {"every": 8},
    "buffers on cpu": {"buffers": "cpu"},
}
RANK = {"rank units": {"units": "rank", "score": "mixed"}}
BATCHES = 8  # in a round: a multiple of the rarest sampling


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    rounds: int = 3
    steps: int = 150


FULL, QUICK = Amount(), Amount(rounds=1, steps=16)


@dataclass
class Cost:
    """One way of capture on one task: each round's seconds a step, steps scored, bytes kept."""

    task: str
    way: str
    tracked_bytes: int
    scored: int = 0
    buffer_bytes: int = 0
    scratch_bytes: int = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capture_overhead", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="one round, a few steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    given = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    tasks = data.load()
    words = shlex.join(sys.argv[1:] if arguments is None else arguments)
    text, found = run(tasks, base_folder(), QUICK if given.quick else FULL, Training(), words)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.write:
        page.write(given.write, "capture", text)


def run(
    tasks: Sequence[data.Task], base: Path, amount: Amount, training: Training, words: str = ""
) -> tuple[str, dict[str, Any]]:
    """Measure, print, and return what was printed and the figures; the first task gets all ways."""
    first = tasks[0]
    costs = [
        *overhead(first, base, amount, training, WAYS),
        *(
            cost
            for t in tasks[1:]
            for cost in overhead(t, base, amount, training, {"every step": {}})
        ),
        *overhead(first, base, amount, training, RANK, lora=True),
    ]
    rankings = agreement(first, base, amount, training)
    text = render(costs, rankings, first, amount, training, words)
    print(text)
    return text, {
        "amount": asdict(amount),
        "training": asdict(training),
        "machine": machine("torch", "transformers"),
        "costs": [asdict(cost) for cost in costs],
        "rankings": {way: asdict(found) for way, found in rankings.items()},
    }


def overhead(
    task: data.Task,
    base: Path,
    amount: Amount,
    training: Training,
    ways: dict[str, dict[str, Any]],
    *,
    lora: bool = False,
) -> list[Cost]:
    """Train on each batch once without capture and once with each way, in turning order."""
    scorer, optimizer = _start(base, training, lora)
    tracked = sum(p.nbytes for p in scorer.encoder.parameters() if p.requires_grad)
    name = f"{task.name}, LoRA" if lora else task.name
    attached: dict[str, KlfImportance | None] = {"without": None}
    for way, settings in ways.items():
        attached[way] = KlfImportance.attach(scorer.encoder, **settings)
    costs = {way: Cost(name, way, tracked) for way in attached}
    draw = batches(task, training)
    warm = next(draw)  # buffers are made, and every way has scored its first step
    for capture in attached.values():
        _step(scorer, optimizer, task, warm, capture, training=training)
    for _ in range(amount.rounds):
        total = {way: [0.0, 0.0] for way in attached}
        for number, rows in enumerate(islice(draw, BATCHES)):
            order = list(attached)
            for way in order[number % len(order) :] + order[: number % len(order)]:
                began, cpu = time.perf_counter(), time.process_time()
                _step(scorer, optimizer, task, rows, attached[way], training=training)
                total[way][0] += time.perf_counter() - began
                total[way][1] += time.process_time() - cpu
        for way, (wall, cpu) in total.items():
            costs[way].wall.append(wall / BATCHES)
            costs[way].cpu.append(cpu / BATCHES)
    for way, capture in attached.items():
        if capture:
            costs[way].scored = capture.steps
            costs[way].buffer_bytes = capture.buffer_bytes
            costs[way].scratch_bytes = capture.scratch_bytes
    return list(costs.values())


def agreement(
    task: data.Task, base: Path, amount: Amount, training: Training
) -> dict[str, Agreement]:
    """Follow one fine-tuning in every way of sampling, and compare the unit scores at its end."""
    scorer, optimizer = _start(base, training, lora=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, Training(steps=amount.steps, warmup=training.warmup).rate
    )
    sampled = {way: s for way, s in WAYS.items() if "buffers" not in s}
    captures = {way: KlfImportance.attach(scorer.encoder, **s) for way, s in sampled.items()}
    for rows in islice(batches(task, training), amount.steps):
        _step(scorer, optimizer, task, rows, *captures.values(), training=training)
        schedule.step()
    maps = {way: capture.map(task.name) for way, capture in captures.items()}
    every = maps.pop("every step")
    return {way: Agreement.of(every, found) for way, found in maps.items()}


def _start(
    base: Path, training: Training, lora: bool
) -> tuple[OptionScorer, torch.optim.Optimizer]:
    torch.manual_seed(training.seed)
    with quiet():
        scorer = OptionScorer.open(base, max_tokens=training.max_tokens)
    if lora:
        import peft

        config = peft.LoraConfig(r=8, target_modules=["query", "value"])
        scorer.encoder = peft.get_peft_model(scorer.encoder, config)
    scorer.encoder.train()
    trained = [p for p in scorer.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=training.lr, weight_decay=0.0, fused=True)
    return scorer, optimizer


def _step(
    scorer: OptionScorer,
    optimizer: torch.optim.Optimizer,
    task: data.Task,
    rows: Sequence[data.Row],
    *captures: KlfImportance | None,
    training: Training,
) -> None:
    texts, targets = zip(*rows, strict=True)
    scorer.loss(texts, task.options, targets).backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], training.clip)
    for capture in captures:
        if capture:
            capture.step()
    optimizer.step()
    optimizer.zero_grad()


def render(
    costs: Sequence[Cost],
    rankings: dict[str, Agreement],
    task: data.Task,
    amount: Amount,
    training: Training,
    words: str,
) -> str:
    """Return both tables and what they depend on, within 80 columns."""
    head = f"{'':32}{'ms a step':>10}{'CPU ms':>8}{'more':>8}{'CPU more':>10}{'buffers':>9}"
    lines = [head]
    for cost in costs:
        if cost.way == "without":
            without = cost
            scalars = cost.tracked_bytes / 4e6
            label = f"{cost.task}, no capture ({scalars:.3g} M)"
            more = f"{'':18}"
        else:
            label = f"  {cost.way}"
            walls = zip(cost.wall, without.wall, strict=True)
            cpus = zip(cost.cpu, without.cpu, strict=True)
            more = "".join(
                f"{100 * median(with_ / plain - 1 for with_, plain in pairs):{width}.1f} %"
                for width, pairs in ((6, walls), (8, cpus))
            )
        kept = f"{cost.buffer_bytes / cost.tracked_bytes:9.3f}" if cost.buffer_bytes else ""
        lines.append(
            f"{label:32}{1e3 * median(cost.wall):10.0f}{1e3 * median(cost.cpu):8.0f}{more}{kept}"
        )
    scratch = max(cost.scratch_bytes for cost in costs)
    lines += [
        "",
        f"{f'unit scores of {task.name} against every step':44}"
        f"{'Spearman':>12}{'Kendall':>12}{'top fifth':>12}",
    ]
    lines += [
        f"{f'  {way}':44}{found.spearman:12.3f}{found.kendall:12.3f}{100 * found.top:10.0f} %"
        for way, found in rankings.items()
    ]
    notes = [
        "In brackets: parameters tracked. buffers: bytes kept between steps in bytes of the tracked"
        f" parameters; beside them a working block of {table.size(scratch)} whatever the model.",
        f"Steps of {training.batch} texts of at most {training.max_tokens} tokens, one torch"
        f" thread; {amount.rounds} rounds of {BATCHES} batches; ranking after {amount.steps}"
        " steps, one seed, units are tensors.",
        f"python -m benchmarks.capture_overhead {words}".strip()
        + f", {datetime.date.today()}. {machine('torch', 'transformers')}.",  # noqa: DTZ011
    ]
    wrapped = [line for note in notes for line in textwrap.wrap(note, table.WIDTH)]
    return "\n".join([*lines, "", *wrapped])


if __name__ == "__main__":
    main()
