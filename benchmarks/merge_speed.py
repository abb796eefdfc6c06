"""What a merge costs: time, processor time and memory, against the limit of the machine.

    python -m benchmarks.merge_speed                     every merge of a 100 M-parameter model
    python -m benchmarks.merge_speed --size 1.1b --write docs/performance.md
    python -m benchmarks.merge_speed --merges ties,sotu_stored --repeats 5
    python -m benchmarks.merge_speed --scaling           is memory constant, and time linear?
    python -m benchmarks.merge_speed --every             all strategies that work block by block
    python -m benchmarks.merge_speed --density           does what is stored sparse cost less?
    python -m benchmarks.merge_speed --peer mergekit     the same merges beside mergekit

The models are Llama-shaped, made up, seeded, and kept in the cache: 0.2 GB each at 100m, 2.2 GB
each at 1.1b. Each merge is a process of its own, in turn with the limit: reading its inputs once
from the page cache and making one output durable, by the fastest way of several. The inputs must
fit into the page cache, and nothing else should run. docs/performance.md tells how to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import packages, page, peer, speed, speed_table
from benchmarks.cases import CASES, Case, Inputs, of_every_density, of_every_strategy
from benchmarks.machine import header
from benchmarks.synthetic import SHAPES
from deltakit.errors import DeltakitError

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it where asked."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(words)
    given.models = given.models or ([2, 3, 8] if given.scaling else [3])
    given.cache.mkdir(parents=True, exist_ok=True)
    head = header("merge_speed", words, given.cache)
    try:
        with tempfile.TemporaryDirectory(dir=given.cache, prefix="speed-") as work:
            name, table, found = measure(given, Path(work))
        text = f"{head}\n\n{table}"
        print(text)
        if given.json:
            given.json.write_text(json.dumps({"header": head, **found}, indent=1) + "\n")
        if given.write:
            page.write(given.write, name, text)
    except DeltakitError as error:
        sys.exit(f"error: {error}")


def measure(given: argparse.Namespace, work: Path) -> tuple[str, str, dict[str, Any]]:
    """Return the name of what was measured, its table, and the same as data."""
    if given.density:
        return _densities(given, work)
    chosen = [case for case in CASES if case.name in given.merges]
    cases = of_every_strategy() if given.every else chosen
    for case in [case for case in cases if not case.known]:
        print(f"{case.name}: left out, this deltakit has no strategy {case.strategy!r}")
    cases = [case for case in cases if case.known]
    if given.peer:
        for case in [case for case in cases if case.name not in peer.METHODS]:
            print(f"{case.name}: left out, {given.peer} has no such merge")
        cases = [case for case in cases if case.name in peer.METHODS]
        program = peer.install(given.cache)
        races = _each(
            given, cases, lambda case, inputs: peer.race(case, inputs, given.repeats, program, work)
        )
        return "peer", speed_table.races(races), {"races": [race.as_dict() for race in races]}
    floors = {
        loads: speed.floor(work, given.repeats, loads) for loads in {case.loads for case in cases}
    }
    grows = given.scaling or given.every
    limits = 0 if grows else speed.LIMITS
    costs = _each(
        given,
        cases,
        lambda case, inputs: speed.cost(
            case, inputs, given.repeats, floors[case.loads], work, limits
        ),
    )
    found: dict[str, Any] = {"merges": [cost.as_dict() for cost in costs]}
    if grows:
        return "every" if given.every else "scaling", speed_table.scaling(costs), found
    dry_runs = {size: _dry_run(given, size, cases[0], work) for size in given.size}
    found["dry_runs"] = {size: vars(run) for size, run in dry_runs.items()}
    return "merges", speed_table.merges(costs, dry_runs), found


def _densities(given: argparse.Namespace, work: Path) -> tuple[str, str, dict[str, Any]]:
    floors = {"": speed.floor(work, given.repeats, "")}
    costs = [
        cost
        for size in given.size
        for models in given.models
        for cost in speed.costs_in_turn(
            of_every_density(),
            Inputs.of(SHAPES[size], models, given.cache),
            given.repeats,
            floors,
            work,
        )
    ]
    found = {"merges": [cost.as_dict() for cost in costs]}
    return "density", speed_table.density(costs), found


def _each(
    given: argparse.Namespace, cases: Sequence[Case], work: Callable[[Case, Inputs], T]
) -> list[T]:
    return [
        work(case, Inputs.of(SHAPES[size], models, given.cache))
        for size in given.size
        for models in given.models
        for case in cases
    ]


def _dry_run(given: argparse.Namespace, size: str, case: Case, work: Path) -> speed.Run:
    inputs = Inputs.of(SHAPES[size], given.models[0], given.cache)
    words = [*case.words(inputs), "--dry-run"]
    runs = [speed.run(words, work, loads="--bare") for _ in range(given.repeats)]
    return sorted(runs, key=lambda run: run.wall)[len(runs) // 2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge_speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    names = [case.name for case in CASES]
    add("--size", type=_some(SHAPES), default=["100m"], help=f"of {', '.join(SHAPES)}; or several")
    add("--models", type=_numbers, metavar="N[,N]", help="fine-tunes; 3, with --scaling 2,3,8")
    add(
        "--merges",
        type=_some(names),
        metavar="NAME[,NAME]",
        default=names,
        help=f"of {', '.join(names)}; all of them without",
    )
    add("--repeats", type=int, default=3, metavar="N", help="runs of each merge, the median counts")
    add("--scaling", action="store_true", help="a table of time and memory by size and models")
    add("--every", action="store_true", help="that table of every strategy that works by blocks")
    add("--density", action="store_true", help="a table of sums of deltas, by what is stored")
    add("--peer", choices=["mergekit"], help="run the same merges with it; pip installs it")
    add("--json", type=Path, metavar="FILE", help="write every single measurement there")
    add("--write", type=Path, metavar="PAGE", help="put the table in its place in this page")
    add("--cache", type=Path, metavar="DIR", default=packages.CACHE, help="where the models lie")
    return parser


def _some(known: Sequence[str] | dict[str, Any]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if wrong := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(wrong)}")
        return found

    return names


def _numbers(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")]
    if not all(2 <= number <= 8 for number in found):
        raise argparse.ArgumentTypeError("2 to 8 fine-tunes")
    return found


if __name__ == "__main__":
    main()
