"""How much memory a merge works in: so many threads, each with so large a block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deltakit import kernels
from deltakit.dtypes import itemsize
from deltakit.engine.at_once import LEAST
from deltakit.engine.checks import Expert
from deltakit.engine.groups import Group
from deltakit.engine.keeping import Keeping
from deltakit.engine.limits import (
    DEFAULT_BLOCK,
    DEFAULT_SCRATCH,
    KERNEL_BLOCK,
    Limits,
    at_once_bytes,
    entry_bytes,
    kernel_entry_bytes,
    look_bytes,
)
from deltakit.engine.shapes import output_info, row_length
from deltakit.recipe import Effective, Recipe
from deltakit.strategies._settings import coarsest
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource


@dataclass(frozen=True)
class Scratch:
    """Threads, and the scratch memory of each.

    >>> Scratch(threads=2, block=1 << 19, entry=28, looked=0).nbytes
    29360128
    """

    threads: int
    block: int  # entries
    entry: int  # bytes an entry of a block needs
    looked: int  # bytes held while a whole tensor is looked at
    at_once: int = 0  # entries of the largest parameter that is merged at once, ...
    whole: int = 0  # ... and the bytes that takes

    @property
    def nbytes(self) -> int:
        """Upper estimate of all of it."""
        return self.threads * (self.block * self.entry + self.looked + self.whole)


def for_kernels(
    recipe: Recipe,
    infos: Mapping[str, TensorInfo],
    groups: Sequence[Group],
    experts: Sequence[Expert],
    facts: Collection[Any],
) -> bool:
    """Tell whether nothing is seen that torch is needed for, which takes seconds to load.

    `infos` are those of the merged parameters. What is not seen here (an error) loads it where it
    is met.
    """
    written = {output_info(info, recipe.dtype).dtype for info in infos.values()}
    return (
        kernels.compiled is not None
        and recipe.accumulate is None
        and written.union(info.dtype for info in infos.values()) <= kernels.DTYPES
        and all(method.takes_stored(facts) for group in groups for method in group.methods)
        and all(expert.source.as_stored for expert in experts)
    )


def settled(
    limits: Limits,
    recipe: Recipe,
    groups: Sequence[Group],
    effective: Mapping[str, Effective],
    base: TensorSource,
    experts: Sequence[Expert],
    facts: Collection[Any],
    keeping: Keeping | None,
) -> Scratch:
    """Return what the limits leave for a merge; raises BadValue where that is too little."""
    infos = {name: base.infos[name] for group in groups for name in group.names}
    every = [info.numel for info in base.infos.values()]
    largest = max((info.numel for info in infos.values()), default=max(every))
    least, looked = 0, 0
    computed = keeping is not None or not for_kernels(recipe, infos, groups, experts, facts)
    for name, info in infos.items():
        method = effective[name].method
        if method.unit != "element":
            least = max(least, row_length(info) if method.unit == "row" else info.numel)
        if method.looks != "nothing":
            held = largest if method.looks == "model" else info.numel
            looked = max(looked, look_bytes(held, len(experts), computed=computed))
    if not computed:
        entry, usual = kernel_entry_bytes(len(experts)), KERNEL_BLOCK
    else:
        unit = coarsest(["element", *(effective[name].method.unit for name in infos)])
        entry = entry_bytes(len(experts), unit, recipe.accumulate is not None)
        entry += keeping.entry_bytes if keeping else 0
        usual = min(DEFAULT_BLOCK, DEFAULT_SCRATCH // entry)
    threads, block = limits.settle(entry, largest, looked, least, usual)
    found = Scratch(threads, block, entry, looked)
    if computed:
        return found
    whole = [i for name, i in infos.items() if may_be_at_once(name, i, effective, experts)]
    sizes = (itemsize(i.dtype) for info in whole for i in (info, output_info(info, recipe.dtype)))
    each = at_once_bytes(len(experts), max(sizes, default=1))
    most = limits.at_once(found.nbytes, threads, each)
    at_once = max((info.numel for info in whole if info.numel <= most), default=0)
    return replace(found, at_once=at_once, whole=int(at_once * each))


def may_be_at_once(
    name: str, info: TensorInfo, effective: Mapping[str, Effective], experts: Sequence[Expert]
) -> bool:
    """Tell whether a parameter is large, trimmed, and of every expert all is there."""
    return (
        info.numel >= LEAST
        and effective[name].method.trims is not None
        and all(expert.source.most_values(name, info.numel) == info.numel for expert in experts)
    )
