"""The self-check of a merge: how far what was written is from the exact weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import msgspec

from deltakit.lora.factors import Factors, squared_norms


class ModuleCheck(msgspec.Struct, frozen=True):
    """One module: its norms are Euclidean, over all entries of the delta.

    norm: of the exact weighted sum (weighted mean, where the mode averages). error: of what was
    written, against that sum, divided by its norm. kept: the share of the energy of what the mode
    made that its rank keeps.
    """

    module: str
    rank: int
    norm: float
    error: float
    kept: float


class Summary(msgspec.Struct, frozen=True):
    """The same over all modules: energies add up."""

    norm: float
    error: float
    kept: float
    worst: list[ModuleCheck]


def check(
    module: str,
    products: Sequence[Factors],
    weights: Sequence[float],
    written: Factors,
    kept: float | None,
) -> ModuleCheck:
    """Return the check of a module, from small Gram matrices in float64.

    products: the adapters', scaling included. written: as rounded. kept: None where the mode's
    own result is the weighted sum itself: then it is 1 - error^2.
    """
    *_, exact, difference = squared_norms([*products, written], [*weights, -1.0])
    error = sqrt(difference / exact) if exact else 0.0 if difference == 0.0 else float("inf")
    share = max(0.0, 1.0 - error * error) if kept is None else kept
    return ModuleCheck(module, len(written.a), sqrt(exact), error, share)


def summarise(checks: Sequence[ModuleCheck], worst: int = 3) -> Summary:
    """Return what all modules come to, and those that lost most."""
    energy = sum(c.norm**2 for c in checks)
    lost = sum((c.error * c.norm) ** 2 for c in checks if c.norm)
    kept = sum(c.kept * c.norm**2 for c in checks)
    ordered = sorted(checks, key=lambda c: (c.kept, -c.error, c.module))
    return Summary(
        sqrt(energy),
        sqrt(lost / energy) if energy else 0.0,
        kept / energy if energy else 1.0,
        ordered[:worst],
    )
