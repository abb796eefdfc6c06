"""How adapters interfere, as `deltakit inspect` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from math import degrees
from typing import TYPE_CHECKING

from deltakit_cli.figures import fraction, size
from deltakit_cli.output import say, table

if TYPE_CHECKING:
    from deltakit.lora.overlap import AdapterFigures, ModuleOverlap, OverlapReport, PairOverlap
    from deltakit.store import Store

MOST = 5  # modules shown of a pair; --json has them all


def all_adapters(names: Sequence[str], store: Store | None) -> bool:
    """Tell whether all that is named are adapters."""
    from deltakit.experts import locate
    from deltakit.lora import is_adapter

    return all(is_adapter(locate(name, store).path) for name in names)


def show_overlap(report: OverlapReport) -> None:
    """Print one line an adapter, one a pair, and the modules that interfere most."""
    heads = ["adapter", "modules", "rank", "norm", "whole", "size", "dtype"]
    table(heads, map(_adapter, report.adapters), align="lrrrrrl")
    if not report.pairs:
        return
    say()
    heads = ["pair", "", "shared", "cosine", "interference", "inputs", "outputs"]
    table(heads, map(_pair, report.pairs), align="llr")
    say("inputs, outputs: share of the smaller space that lies in the larger, 1 if equal")
    say("angle: smallest principal angle of the inputs; chance: inputs of random spaces")
    for pair in report.pairs:
        rows = sorted(pair.modules, key=lambda m: -abs(m.cosine or 0.0))[:MOST]
        if rows:
            say()
            table(
                ["module", "cosine", "inputs", "chance", "angle", "outputs"],
                map(_module, rows),
                align="lr",
                title=f"{pair.a} and {pair.b}: most alike or opposed",
            )


def _adapter(found: AdapterFigures) -> list[str]:
    ranks = found.ranks
    span = "-" if not ranks else f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    return [
        found.name,
        f"{found.modules}",
        span,
        fraction(found.norm),
        f"{found.whole}",
        size(found.nbytes),
        ", ".join(found.dtypes),
    ]


def _pair(found: PairOverlap) -> list[str]:
    figures = (found.cosine, found.interference, found.inputs, found.outputs)
    return [found.a, found.b, f"{found.shared}", *map(fraction, figures)]


def _module(found: ModuleOverlap) -> list[str]:
    angle = f"{degrees(found.angles[0]):.1f}°" if found.angles else "-"
    shares = map(fraction, (found.cosine, found.inputs, found.chance))
    return [found.module, *shares, angle, fraction(found.outputs)]
