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
import gc
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.lora_models import KINDS, LLAMA_7B, M106, QUICK, Shapes
from benchmarks.machine import machine
from benchmarks.packages import CACHE

WEIGHTS = (0.5, 0.3, 0.2)
RANK = 16
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


class Watch:
    """Seconds, CPU seconds and peak memory of a `with` block."""

    def __enter__(self) -> Watch:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._memory, self._cpu = _status("VmRSS"), time.process_time()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.found = {
            "seconds": time.perf_counter() - self._start,
            "cpu": time.process_time() - self._cpu,
            "peak": float(_status("VmHWM") - self._memory),
        }


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def run_deltakit(adapters: list[Path], mode: str, out: Path) -> dict[str, float]:
    """Merge from folders into a folder."""
    from deltakit.lora.cut import Size
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members

    _load_linear_algebra()
    size = Size() if mode in ("cat", "linear") else Size(rank=RANK)
    with Watch() as watch:
        merge_adapters(open_members([str(a) for a in adapters], WEIGHTS), mode, out, size=size)
    return {**watch.found, "error": error(adapters, out)}


def _load_linear_algebra() -> None:
    """Have torch load what it loads on first use: its libraries are nobody's memory or time."""
    import torch

    matrix = torch.ones(64, 48)
    for kind in (torch.float32, torch.float64):
        torch.linalg.qr(matrix.to(kind))
        torch.linalg.svd(matrix.to(kind), full_matrices=False)
        matrix.to(kind).T @ matrix.to(kind)


def run_peft(base: Path, adapters: list[Path], mode: str, out: Path) -> dict[str, float]:
    """Merge in a loaded model, then save what came out."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # two spin where the machine has other work, and look worse
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[0], "a0")
    for number, path in enumerate(adapters[1:], 1):
        model.load_adapter(path, f"a{number}")
    for parameter in model.parameters():
        parameter.sum()  # weights are mapped from their file, and count once they are touched
    _load_linear_algebra()
    options: dict[str, Any] = {}
    if mode.endswith("svd"):
        options["svd_rank"] = RANK
    if mode in ("ties_svd", "dare_linear_svd", "dare_ties_svd"):
        options["density"] = 0.2 if mode == "ties_svd" else 0.1
    with Watch() as watch:
        model.add_weighted_adapter(
            ["a0", "a1", "a2"], list(WEIGHTS), "merged", combination_type=mode, **options
        )
    model.save_pretrained(out, selected_adapters=["merged"])
    return {**watch.found, "error": error(adapters, out / "merged")}


def error(adapters: list[Path], merged: Path) -> float:
    """Return the relative error of a merged adapter against the exact weighted sum."""
    from deltakit.lora import open_adapter
    from deltakit.lora.factors import squared_norms

    opened, found = [open_adapter(path) for path in adapters], open_adapter(merged)
    exact = lost = 0.0
    for module in found.parts:
        products = [*(adapter.factors(module) for adapter in opened), found.factors(module)]
        norms = squared_norms(products, [*WEIGHTS, -1.0])
        exact, lost = exact + norms[-2], lost + norms[-1]
    return float((lost / exact) ** 0.5)


def identities(work: Path) -> dict[str, tuple[float, str]]:
    """Return what `identity` finds for every kind."""
    return {kind: identity(kind, work / kind) for kind in KINDS}


def identity(kind: str, work: Path) -> tuple[float, str]:
    """Return how far weights 1, 0 are from the first adapter: deltakit's merge, and PEFT's."""
    from benchmarks.lora_models import adapter_of_kind, base_model, logits, merged_by_peft
    from deltakit.lora.merge import merge_adapters
    from deltakit.members import open_members

    base = base_model(work / "base")
    paths = [adapter_of_kind(kind, base, work / f"{seed}", seed) for seed in range(2)]
    wanted = logits(base, paths[0])
    effect = float((wanted - logits(base)).abs().max())
    merge_adapters(open_members([str(p) for p in paths], [1.0, 0.0]), "cat", work / "m")
    ours = float((logits(base, work / "m") - wanted).abs().max()) / effect
    try:
        theirs = float((merged_by_peft(base, paths, [1.0, 0.0]) - wanted).abs().max()) / effect
    except (ValueError, RuntimeError, NotImplementedError) as refused:
        print(f"PEFT refuses {kind}: {refused}")
        return ours, "refused"
    return ours, f"{theirs:.1e}"


if __name__ == "__main__":
    main()
