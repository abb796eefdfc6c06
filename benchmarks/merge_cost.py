"""What a merge costs: seconds, peak memory, and the ratio to reading the inputs and one copy.

    python -m benchmarks.merge_cost [--quick] [--json FILE]

Three fine-tunes of a 100 M-parameter Llama-shaped model in bf16 (made up, seeded, cached) are
merged with every strategy. Each merge runs in a process of its own, in which torch is loaded
before the clock and the memory count begin. The limit is measured in the same minute: reading
base and fine-tunes once from the page cache, then copying one model and making it durable.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.synthetic import M100, TINY, models

SETTINGS: dict[str, dict[str, float]] = {
    "average": {},
    "task_arithmetic": {},
    "sotu": {"p": 0.9},
    "dare": {"p": 0.9},
    "dare_ties": {"p": 0.9},
    "ties": {"density": 0.2},
    "klf": {},
}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge_cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    base, experts = models(TINY if given.quick else M100, tuned=3)
    rows = []
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        work = Path(folder)
        maps = _in_process(_maps, base, work)
        for name, settings in SETTINGS.items():
            limit = _in_process(_limit, base, experts, work)
            rows.append(_in_process(_merge, name, settings, base, experts, work, maps))
            rows[-1]["ratio"] = rows[-1]["seconds"] / limit
            rows[-1]["limit"] = limit
    _print(rows, base)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


def _in_process(function, *arguments):  # type: ignore[no-untyped-def]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _maps(base: Path, work: Path) -> list[Path]:
    """Write three importance maps with seeded scores, for klf."""
    import torch

    from deltakit.importance import ImportanceMap
    from deltakit.tensors.checkpoint import Checkpoint

    names = sorted(Checkpoint.open(base).infos)
    paths = [work / f"importance-{number}.safetensors" for number in range(3)]
    for seed, path in enumerate(paths):
        scores = torch.rand(len(names), generator=torch.Generator().manual_seed(seed))
        ImportanceMap(dict(zip(names, scores, strict=True)), task=path.stem).save(path)
    return paths


def _limit(base: Path, experts: list[Path], work: Path) -> float:
    """Return the seconds of reading all inputs once, warm, and copying one model durably."""
    buffer = bytearray(8 << 20)
    files = [folder / "model.safetensors" for folder in (base, *experts)]
    for timed in (False, True):  # the first round fills the page cache
        began = time.perf_counter()
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        if timed:
            copy = work / "copy"
            shutil.copyfile(files[0], copy)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
            seconds = time.perf_counter() - began
            copy.unlink()
    return seconds


def _merge(
    name: str,
    settings: dict[str, float],
    base: Path,
    experts: list[Path],
    work: Path,
    maps: list[Path],
) -> dict[str, float | str]:
    """Return what one merge took, in this process."""
    import torch  # noqa: F401  (loaded before the count begins)

    from deltakit.merging import merge
    from deltakit.strategies import find

    importance = maps if find(name).needs_importance else []
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, cpu = _memory("VmRSS"), time.process_time()
    report = merge(
        [str(path) for path in experts],
        name,
        work / name,
        base=str(base),
        settings=settings,
        importance=importance,
    )
    row = {
        "strategy": name,
        "seconds": report.seconds,
        "cpu": time.process_time() - cpu,
        "peak": _memory("VmHWM") - before,
    }
    shutil.rmtree(work / name)
    return row


def _memory(field: str) -> int:
    """Return a field of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def _print(rows: list[dict], base: Path) -> None:  # type: ignore[type-arg]
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    print(f"base + 3 fine-tunes of {size / 2e6:.0f} M parameters, bf16, {size / 1e6:.0f} MB each")
    print(f"{'strategy':16} {'seconds':>8} {'cpu':>7} {'peak MB':>8} {'limit s':>8} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['strategy']:16} {row['seconds']:8.2f} {row['cpu']:7.2f}"
            f" {row['peak'] / 1e6:8.0f} {row['limit']:8.2f} {row['ratio']:6.1f}"
        )
    print("peak: above the interpreter with torch loaded; limit: read all inputs, copy one output")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}")  # noqa: DTZ011


if __name__ == "__main__":
    main()
