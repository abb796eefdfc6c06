"""What keeping a task costs: time and memory of `deltakit add`, by what is kept, and of `restore`.

    python -m benchmarks.store_speed                     of a 100 M-parameter model
    python -m benchmarks.store_speed --size 1.1b --write docs/performance.md

The models are those of benchmarks.merge_speed. Each command is a process of its own, in turn with
the limit: reading both models (to restore: base and delta) once from the page cache, and making a
file as large as what is kept (the model) durable, by the fastest way of several.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import limit, packages, page
from benchmarks.cases import MASKS, Inputs
from benchmarks.command import Command
from benchmarks.machine import header
from benchmarks.process import Process
from benchmarks.speed import progress
from benchmarks.synthetic import SHAPES
from benchmarks.table import WIDTH
from deltakit.errors import DeltakitError
from deltakit.store import Store

KEPT = {
    "all that differs": "",
    "a tenth at random": MASKS["random_0.1"],
    "the largest tenth": MASKS["magnitude_0.1"],
    "every byte": "--lossless",
}
TASK = "measured"


@dataclass
class Row:
    """One command's runs, with the limits measured between them."""

    name: str
    read: int = 0  # bytes
    written: int = 0
    runs: list[Process] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Return the row of the table."""
        wall, cpu = median(run.wall for run in self.runs), median(run.cpu for run in self.runs)
        peak, least = median(run.peak for run in self.runs), median(self.limits)
        return (
            f"{self.name:24}{self.read / 1e9:8.2f}{self.written / 1e9:8.2f}{wall:9.2f}{cpu:8.2f}"
            f"{peak / 1e6:9.0f}{least:7.2f}{wall / least:7.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it where asked."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(words)
    given.cache.mkdir(parents=True, exist_ok=True)
    head = header("store_speed", words, given.cache)
    try:
        with tempfile.TemporaryDirectory(dir=given.cache, prefix="store-") as work:
            inputs = Inputs.of(SHAPES[given.size], 2, given.cache)
            text = f"{head}\n\n{_table(_rows(inputs, given.repeats, Path(work)))}"
        print(text)
        if given.write:
            page.write(given.write, "store", text)
    except DeltakitError as error:
        sys.exit(f"error: {error}")


def _rows(inputs: Inputs, repeats: int, work: Path) -> list[Row]:
    base, model = inputs.base, inputs.experts[0]
    deltakit, store = Command(work), work / ".deltakit"
    deltakit("init", silent=True)
    deltakit("base", "add", "base", str(base), silent=True)
    rows = {name: Row(f"add, {name}") for name in KEPT} | {"restore": Row("restore")}
    add = [deltakit.program, "add", TASK, "--base", "base", "--model", model, "--store", store]
    for number in range(repeats):
        progress(f"round {number + 1}")
        for name, options in KEPT.items():
            files = [*_weights(base), *_weights(model)]
            limit.read(files)
            run = Process.run([*add, *options.split()])
            delta = Store.open(store).task(TASK).delta_path
            _note(rows[name], run, files, delta.stat().st_size, work)
            if name == "every byte":
                files, out = [*_weights(base), delta], work / "restored"
                run = Process.run(
                    [deltakit.program, "restore", TASK, "--out", out, "--store", store]
                )
                _note(rows["restore"], run, files, inputs.size, work)
                shutil.rmtree(out)
            deltakit("rm", TASK, silent=True)
            deltakit("gc", "--grace", "0", silent=True)
    return list(rows.values())


def _note(row: Row, run: Process, files: Sequence[Path], size: int, work: Path) -> None:
    row.read, row.written = sum(path.stat().st_size for path in files), size
    row.runs.append(run)
    row.limits.append(limit.measure(files, size, work).seconds)


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"{'command':24}{'GB in':>8}{'GB out':>8}{'whole s':>9}{'cpu s':>8}{'peak MB':>9}"
        f"{'limit':>7}{'ratio':>7}"
    ]
    note = (
        "whole s: seconds of the whole process, which also proves what it wrote where every byte is"
        " kept; peak MB: anonymous memory; limit: seconds of reading the inputs once and writing"
        " the file; ratio: whole / limit."
    )
    return "\n".join([*lines, *(row.line() for row in rows), "", *textwrap.wrap(note, WIDTH)])


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store_speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--size", choices=SHAPES, default="100m", help="of the model; 100m without")
    add("--repeats", type=int, default=3, metavar="N", help="runs of each, the median counts")
    add("--write", type=Path, metavar="PAGE", help="put the table in its place in this page")
    add("--cache", type=Path, metavar="DIR", default=packages.CACHE, help="where the models lie")
    return parser


if __name__ == "__main__":
    main()
