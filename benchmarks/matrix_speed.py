"""What one large matrix costs a strategy, by Gram matrices and by LAPACK's SVD.

python -m benchmarks.matrix_speed [--size N] [STRATEGY ...]

Three random deltas of N x N, one thread: seconds of processor time, and the most memory above the
deltas, each in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from deltakit.strategies import Stack, _matrix, get


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a strategy and way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix_speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("strategies", nargs="*", default=["iso_c", "tsv"], metavar="STRATEGY")
    parser.add_argument("--size", type=int, default=2048, metavar="N")
    parser.add_argument("--way", choices=("gram", "lapack"), help="measure here, only this")
    given = parser.parse_args(arguments)
    for strategy in given.strategies:
        if given.way:
            measure(strategy, given.size, given.way)
            continue
        for way in ("gram", "lapack"):
            words = [strategy, "--size", str(given.size), "--way", way]
            subprocess.run([sys.executable, "-m", "benchmarks.matrix_speed", *words], check=True)


def measure(strategy: str, size: int, way: str) -> None:
    """Merge three deltas and print what it took."""
    torch.set_num_threads(1)
    if way == "lapack":
        _matrix.GRAM_FROM = sys.maxsize
    deltas = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    before, start = _peak(), time.process_time()
    get(strategy).merge(Stack(deltas))
    seconds = time.process_time() - start
    print(f"{strategy:12} {size:6} {way:7} {seconds:7.1f} s {_peak() - before:6.2f} GB", flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
