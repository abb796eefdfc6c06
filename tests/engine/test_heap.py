"""What is freed goes back to the system, and a merge's memory does not grow with its models."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.process import Process
from deltakit.engine import heap
from deltakit.engine.heap import Heap
from tests.engine.merging import TASKS, write_models

RUN = "import sys; from deltakit_cli.main import main; sys.exit(main())"
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc is here")


# In a process of its own, whose heap no other test has used before.
HOLES = """
import torch
from deltakit.engine.heap import EVERY, Heap

def anonymous():
    with open("/proc/self/status") as status:
        return int(status.read().partition("RssAnon:")[2].split()[0]) * 1024

kept, freed = [], []
for _ in range(1000):
    freed.append(torch.ones(25_000))  # 100 kB: below what is mapped by itself
    kept.append(torch.ones(300))
heap, found = Heap(), [anonymous()]
freed.clear()
for _ in range(EVERY - 1):
    heap.work_done()
found.append(anonymous())
heap.work_done()
print(*found, anonymous())
"""


@needs_glibc
def test_pages_of_holes_between_what_is_kept_are_given_back_now_and_then() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True
    )
    used, freed, given_back = map(int, printed.stdout.split())
    assert used - freed < 50_000_000
    assert used - given_back > 80_000_000


def test_a_c_library_without_a_way_to_give_back_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: None) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    given = Heap()
    for _ in range(heap.EVERY):
        given.work_done()


@needs_glibc
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["breadcrumbs", "della", "localize_stitch", "pcb", "sce"])
def test_no_strategy_that_works_by_blocks_takes_more_than_300_mb(
    strategy: str, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = {
        f"layers.{i}.weight": torch.randn(2048, 3000, generator=generator).to(torch.bfloat16)
        for i in range(6)
    }
    write_models(tmp_path, tensors=layers)  # 37 M parameters
    words = ["-P", "-c", RUN, "merge", *(tmp_path / task for task in TASKS)]
    words += ["--base", tmp_path / "base", "--strategy", strategy, "--out", tmp_path / "out"]
    merge = Process.run([sys.executable, *words, "--threads", "2"])
    assert merge.peak < 300_000_000
