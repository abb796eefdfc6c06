"""How much adapters interfere, before they are merged: from small Gram matrices only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import msgspec

from deltakit.lora.arrays import Arrays, arrays
from deltakit.lora.union import Member, union

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

NOTHING = 1e-6  # of the largest singular value: what rounding leaves of a rank that is not there


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
        products = {n: arrays(members[n].adapter, module) for n in parts}
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


def _gram(products: Mapping[int, Arrays]) -> dict[tuple[int, int], float]:
    """Return <D_i, D_j> = sum of (B_i^T B_j) * (A_i A_j^T)."""
    return {
        (i, j): float(((p.b.T @ q.b) * (p.a @ q.a.T)).sum())
        for i, p in products.items()
        for j, q in products.items()
    }


def _module(name: str, cosine: float | None, one: Arrays, two: Arrays) -> ModuleOverlap:
    import numpy as np

    spaces = _basis(one.a.T), _basis(two.a.T)
    inputs = _cosines(*spaces)
    outputs = _cosines(_basis(one.b), _basis(two.b))
    larger = max(space.shape[1] for space in spaces)
    return ModuleOverlap(
        name,
        None if cosine is None else min(1.0, max(-1.0, cosine)),
        _mean_square(inputs),
        _mean_square(outputs),
        min(1.0, larger / one.a.shape[1]),
        np.arccos(inputs).tolist(),
    )


def _basis(columns: NDArray[float64]) -> NDArray[float64]:
    """Return an orthonormal basis of the columns' space, without the ranks filled up with zeros."""
    import numpy as np

    q, r = np.linalg.qr(columns)
    u, sigma, _ = np.linalg.svd(r)
    return q @ u[:, sigma > NOTHING * sigma[0]]


def _cosines(one: NDArray[float64], two: NDArray[float64]) -> NDArray[float64]:
    """Return the cosines of the principal angles between two spaces, descending."""
    import numpy as np

    return np.linalg.svd(one.T @ two, compute_uv=False).clip(0.0, 1.0)


def _mean_square(cosines: NDArray[float64]) -> float:
    return float((cosines**2).mean()) if len(cosines) else 0.0


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
        adapter.file_nbytes,
        norm,
    )
