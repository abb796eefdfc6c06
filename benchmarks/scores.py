"""Test scores of model folders, computed in the background and kept between runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import data, table
from benchmarks.model import evaluate
from deltakit.tensors.checkpoint import Checkpoint


class Scores:
    """Test scores of model folders, kept by what they depend on: the weights and the rows."""

    def __init__(self, file: Path, tasks: Sequence[data.Task], pool: ProcessPoolExecutor) -> None:
        self.file = file
        self.tasks = list(tasks)
        self.pool = pool
        self.kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.running: dict[str, tuple[str, Future[dict[str, float]] | None]] = {}

    def start(self, label: str, folder: Path) -> None:
        """Score a folder in the background unless its weights were scored before."""
        parts = [Checkpoint.open(folder).fingerprint(), *(task.digest() for task in self.tasks)]
        key = " ".join(part[:16] for part in parts)
        known = key in self.kept or any(key == other for other, _ in self.running.values())
        self.running[label] = (
            key,
            None if known else self.pool.submit(evaluate, folder, self.tasks),
        )

    def rows(self, labels: Sequence[str]) -> list[table.Row]:
        """Wait for the scores of these labels and keep them."""
        for label in labels:
            key, future = self.running[label]
            if future is not None:
                self.kept[key] = future.result()
                write_json(self.file, self.kept)
        return [(label, self.kept[self.running[label][0]]) for label in labels]


def write_json(file: Path, found: Any) -> None:
    """Write a JSON file whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
