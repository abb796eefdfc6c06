"""Merging LoRA adapters: deltakit against PEFT's add_weighted_adapter, in one run.

    python -m benchmarks.lora_merge [--quick] [--write docs/lora.md]

Three rank-16 adapters of a 106 M-parameter Llama-shaped model (56 modules, made up, seeded) are
merged in every mode, weights .5, .3, .2, to rank 16 where the mode cuts. deltakit reads folders and
writes a folder; PEFT's clock begins when base and adapters are loaded and ends before it saves.
Each merge runs in a process of its own with one torch thread a worker; memory is the peak above
what was there before: torch and its linear algebra loaded, for PEFT the model and adapters too,
every page of them touched. error: relative,
against the exact weighted sum, measured on what was written; of a mode that means something else
it is how far that is from the sum. Then the identity that a merge with
weights 1, 0 gives the first adapter, and svd at the shapes of a 7 B model. --write puts the
tables into a page.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.lora_models import LLAMA_7B, M106, QUICK, RANK, Shapes
from benchmarks.lora_runs import identities, run_deltakit, run_peft
from benchmarks.machine import machine
from benchmarks.packages import CACHE

# our mode -> PEFT's combination_type that means the same, if there is one
MODES: dict[str, str | None] = {
    "cat": "cat",
    "svd": "svd",
    "linear": "linear",
    "ties": "ties_svd",
    "dare": "dare_linear_svd",
    "dare_ties": "dare_ties_svd",
    "sotu": None,
    "core_space": None,
    "knots": None,
}


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora_merge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into it")
    given = parser.parse_args()
    small, large = (QUICK, QUICK) if given.quick else (M106, LLAMA_7B)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        work = Path(folder)
        text = "\n\n".join([_speeds(small, work), _identities(work), _large(large, work)])
    told = machine("torch", "peft", "transformers")
    text += f"\n\n{told}, {datetime.date.today()}"  # noqa: DTZ011
    print(text)
    if given.write:
        page.write(given.write, "figures", text)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text, the first column to the left and the others to the right.

    >>> print(aligned([["mode", "s"], ["cat", "0.25"]]))
    mode     s
    cat   0.25
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _speeds(shapes: Shapes, work: Path) -> str:
    base, adapters = _apart(shapes.write, work / shapes.name)
    rows = [["", "deltakit", "", "", "", "PEFT", "", "", ""]]
    rows.append(["mode", *(["s", "CPU s", "MB", "error"] * 2)])
    for mode, theirs in MODES.items():
        row = [mode, *_cells(_apart(run_deltakit, adapters, mode, work / mode))]
        if theirs is None:
            row += ["none", "", "", ""]
        else:
            row += _cells(_apart(run_peft, base, adapters, theirs, work / f"peft-{mode}"))
        print(*row, flush=True)
        rows.append(row)
    head = f"{shapes.name}: {len(shapes.modules())} modules, three adapters of rank {RANK}"
    return f"{head}\n\n{aligned(rows)}"


def _cells(run: dict[str, float]) -> list[str]:
    return [
        f"{run['seconds']:.2f}",
        f"{run['cpu']:.2f}",
        f"{run['peak'] / 1e6:.0f}",
        f"{run['error']:.1e}",
    ]


def _large(shapes: Shapes, work: Path) -> str:
    adapters = _apart(shapes.write_adapters, work / "large", "BF16")
    rows = [["mode", "s", "CPU s", "MB", "error"]]
    for mode in ("svd", "cat", "core_space"):
        rows.append([mode, *_cells(_apart(run_deltakit, adapters, mode, work / f"large-{mode}"))])
    head = f"{shapes.name}: {len(shapes.modules())} modules, bf16, deltakit alone"
    return f"{head}\n\n{aligned(rows)}"


def _identities(work: Path) -> str:
    head = (
        "weights 1, 0: largest difference of a logit to the first adapter's,\n"
        "as a fraction of that adapter's own effect"
    )
    rows = [["adapters", "deltakit cat", "PEFT cat"]]
    rows += [[kind, f"{a:.1e}", b] for kind, (a, b) in _apart(identities, work).items()]
    return f"{head}\n\n{aligned(rows)}"


def _apart(function: Any, *arguments: Any) -> Any:
    """Return what a function returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


if __name__ == "__main__":
    main()
