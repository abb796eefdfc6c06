"""How much adapters interfere, before they are merged: from small Gram matrices only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import msgspec

from deltakit.lora.factors import Factors
from deltakit.lora.union import Member, union

if TYPE_CHECKING:
    from torch import Tensor


class ModuleOverlap(msgspec.Struct, frozen=True):
    """Two adapters in one module.

    cosine: of the deltas, seen as vectors; None where one is zero. inputs, outputs: the share of
    the smaller of the two spaces (rows of A, columns of B) that lies in the larger: mean squared
    cosine of the principal angles, 1 for equal spaces. chance: what random spaces of these
    ranks share, of inputs. angles: the principal angles of the inputs, in radians, ascending.
    """

    module: str
    cosine: float | None
    inputs: float
    outputs: float
    chance: float
    angles: list[float]


class PairOverlap(msgspec.Struct, frozen=True):
    """Two adapters over all modules both adapt; inputs and outputs are means over these.

    cosine: over all modules of either. interference: |a + b|^2 / (|a|^2 + |b|^2) - 1, 0 for
    orthogonal deltas, 1 for equal ones, below 0 where they cancel.
    """

    a: str
    b: str
    shared: int
    only_a: int
    only_b: int
    cosine: float | None
    interference: float | None
    inputs: float | None
    outputs: float | None
    modules: list[ModuleOverlap]


class AdapterFigures(msgspec.Struct, frozen=True):
    """One adapter: what its headers tell, and the Euclidean norm of its delta."""

    name: str
    path: str
    modules: int
    ranks: list[int]
    whole: int
    dtypes: list[str]
    nbytes: int
    norm: float


class OverlapReport(msgspec.Struct, frozen=True):
    """Adapters, and every pair of them."""

    adapters: list[AdapterFigures]
    pairs: list[PairOverlap]


def overlap(members: Sequence[Member]) -> OverlapReport:
    """Return norms, cosines and overlaps of adapters, no base and no dense delta needed.

    >>> overlap(open_members(["./lora-a", "./lora-b"])).pairs[0].cosine  # doctest: +SKIP
    0.013

    Raises what `union` raises for adapters that are not of one model.
    """
    modules = union(members)
    squares = [0.0] * len(members)
    dots: dict[tuple[int, int], float] = {}
    found: dict[tuple[int, int], list[ModuleOverlap]] = {}
    for module, parts in modules.items():
        products = {n: members[n].adapter.factors(module) for n in parts}
        gram = _gram(products)
        for n in parts:
            squares[n] += gram[n, n]
        for i in parts:
            for j in parts:
                if i < j:
                    dots[i, j] = dots.get((i, j), 0.0) + gram[i, j]
                    norms = sqrt(gram[i, i] * gram[j, j])
                    cosine = gram[i, j] / norms if norms else None
                    found.setdefault((i, j), []).append(
                        _module(module, cosine, products[i], products[j])
                    )
    order = range(len(members))
    pairs = [
        _pair(members, i, j, found.get((i, j), []), squares, dots.get((i, j), 0.0))
        for i in order
        for j in order
        if i < j
    ]
    figures = [_figures(m, sqrt(s)) for m, s in zip(members, squares, strict=True)]
    return OverlapReport(figures, pairs)


def _gram(products: Mapping[int, Factors]) -> dict[tuple[int, int], float]:
    """Return <D_i, D_j> = sum of (B_i^T B_j) * (A_i A_j^T)."""
    wide = {n: Factors(p.a.double(), p.b.double()) for n, p in products.items()}
    return {
        (i, j): float(((p.b.T @ q.b) * (p.a @ q.a.T)).sum())
        for i, p in wide.items()
        for j, q in wide.items()
    }


def _module(name: str, cosine: float | None, one: Factors, two: Factors) -> ModuleOverlap:
    import torch

    inputs = _cosines(one.a.T, two.a.T)
    outputs = _cosines(one.b, two.b)
    larger = max(len(one.a), len(two.a))
    return ModuleOverlap(
        name,
        None if cosine is None else min(1.0, max(-1.0, cosine)),
        float(inputs.square().mean()),
        float(outputs.square().mean()),
        min(1.0, larger / one.a.shape[1]),
        torch.acos(inputs).tolist(),
    )


def _cosines(one: Tensor, two: Tensor) -> Tensor:
    """Return the cosines of the principal angles between two column spaces, descending."""
    import torch

    q, p = torch.linalg.qr(one).Q, torch.linalg.qr(two).Q
    return torch.linalg.svdvals(q.T @ p).clamp(0.0, 1.0)


def _pair(
    members: Sequence[Member],
    i: int,
    j: int,
    modules: list[ModuleOverlap],
    squares: Sequence[float],
    dot: float,
) -> PairOverlap:
    ours, theirs = members[i].adapter.parts, members[j].adapter.parts
    norms, total = sqrt(squares[i] * squares[j]), squares[i] + squares[j]
    count = len(modules)
    return PairOverlap(
        members[i].name,
        members[j].name,
        count,
        len(ours) - count,
        len(theirs) - count,
        min(1.0, max(-1.0, dot / norms)) if norms else None,
        2.0 * dot / total if total else None,
        sum(m.inputs for m in modules) / count if count else None,
        sum(m.outputs for m in modules) / count if count else None,
        modules,
    )


def _figures(member: Member, norm: float) -> AdapterFigures:
    adapter = member.adapter
    return AdapterFigures(
        member.name,
        adapter.label,
        len(adapter.parts),
        sorted({part.rank for part in adapter.parts.values()}),
        len(adapter.whole) + len(adapter.rows),
        adapter.dtypes,
        adapter.nbytes,
        norm,
    )
