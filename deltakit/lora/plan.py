"""The plan of a merge of adapters: everything that could refuse it, looked at beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from deltakit.dtypes import safetensors_dtype, torch_dtype
from deltakit.errors import BadValue
from deltakit.lora.adapter import Part
from deltakit.lora.cut import Size
from deltakit.lora.depth import module_depths
from deltakit.lora.factors import Factors
from deltakit.lora.fields import merged_fields
from deltakit.lora.kept import Kept
from deltakit.lora.modes import Mode, Pack
from deltakit.lora.rank_maps import rank_scores, with_maps
from deltakit.lora.record import Record
from deltakit.lora.refusals import check_dora, check_factors_only, check_names
from deltakit.lora.union import Member, notes_on_strangers, union
from deltakit.lora.write import adapter_dtype
from deltakit.recipe.checks import check_finite
from deltakit.tensors.source import TensorSource


@dataclass(frozen=True)
class Plan:
    """A merge of adapters that will not be refused half-way."""

    record: Record
    members: Sequence[Member]  # those of a weight other than 0
    mode: Mode
    modules: Mapping[str, Mapping[int, Part]]
    kept: Kept
    facts: Mapping[str, Any]
    depths: Mapping[str, float]  # by module, 0 to 1
    dtype: str
    fields: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=list)

    def shares(self, pack: Pack) -> list[float]:
        """Return what each adapter's delta of a module is multiplied by."""
        total = sum(pack.weights) if self.mode.averages else 1.0
        return [self.record.scale * weight / (total or 1.0) for weight in pack.weights]

    def nbytes(self, module: str) -> int:
        """Return the bytes of a module's factors in all adapters."""
        return sum(
            self.members[number].adapter.source.infos[tensor].nbytes
            for number, part in self.modules[module].items()
            for tensor in (part.a, part.b)
        )

    def pack(self, module: str) -> Pack:
        """Read a module's factors, of rank 0 where an adapter lacks it, in one dtype; weighed."""
        import torch

        parts = self.modules[module]
        first = next(iter(parts.values()))
        found = {n: self.members[n].adapter.factors(module) for n in parts}
        kinds = {product.a.dtype for product in found.values()}
        wide = torch.float64 if torch.float64 in kinds else torch.float32
        rows, columns = shape_of(first)
        nothing = Factors(torch.zeros(0, columns), torch.zeros(rows, 0))
        products = [found.get(n, nothing) for n in range(len(self.members))]
        turned = first.kind == "embedding" or any(
            self.members[n].adapter.config.fan_in_fan_out for n in parts
        )
        shape = (columns, rows) if turned else (rows, *first.inputs)
        pack = Pack(
            [Factors(p.a.to(wide), p.b.to(wide)) for p in products],
            [member.weight for member in self.members],
            [parts[n].scaling if n in parts else 1.0 for n in range(len(self.members))],
            [member.name for member in self.members],
            f"{module}.weight",
            shape,
            turned,
            self.record.seed,
            self.depths[module],
            self.facts.get(module),
        )
        return self.mode.weigh(pack)


def plan_merge(
    members: Sequence[Member],
    mode: str,
    chosen: Mode,
    *,
    size: Size | None = None,
    scale: float = 1.0,
    seed: int = 0,
    dtype: str | None = None,
    importance: Sequence[str | Path] = (),
    base: TensorSource | None = None,
) -> Plan:
    """Check a merge of adapters whole and return its plan; reads headers and importance maps.

    chosen: the mode with its settings, `mode` its name; others are those of `merge_adapters`.
    """
    size = size or Size()
    size.check()
    for value in (scale, *(member.weight for member in members)):
        check_finite(value)
    check_names(members)
    if importance:
        members = with_maps(members, importance, chosen, mode)
    if not chosen.ordered:  # then the content's, so that the given one changes no bit
        members = sorted(members, key=lambda m: (m.adapter.fingerprint, m.name))
    used = [member for member in members if member.weight != 0.0]
    if not used or scale == 0.0:
        raise BadValue(f"nothing to merge: {'the scale is' if used else 'all weights are'} 0")
    chosen.check([member.weight for member in used], [member.name for member in used])
    total = sum(member.weight for member in used) if chosen.averages else 1.0
    if total == 0.0:
        raise BadValue(f"{mode} averages, and the weights add up to 0")
    kept = Kept(used, [scale * member.weight / total for member in used], base)
    kept.check()
    modules = union(used)
    if chosen.rule and (chosen.rule.weighting or chosen.rule.lines):
        check_factors_only(used, kept)
    check_dora(used, mode, size, scale)
    ranks = {module: [p.rank for p in parts.values()] for module, parts in modules.items()}
    for module, found in ranks.items():
        chosen.rank(found, shape_of(next(iter(modules[module].values()))))  # refuses what it cannot
    facts = chosen.prepare(ranks, rank_scores(used)) if chosen.needs_importance else {}
    fields, notes = merged_fields(used, kept)
    notes += notes_on_strangers(used)
    record = Record.of(members, mode, chosen, size, scale, seed)
    where = module_depths(modules, used, chosen.rule, base)
    out = _dtype(used) if dtype is None else adapter_dtype(dtype)
    return Plan(record, used, chosen, modules, kept, facts, where, out, fields, notes)


def shape_of(part: Part) -> tuple[int, int]:
    """Return rows and columns of a part's delta, a convolution's inputs flattened."""
    return part.outputs, prod(part.inputs)


def _dtype(members: Sequence[Member]) -> str:
    """Return the narrowest dtype that holds the values of all adapters."""
    import torch

    kinds = [torch_dtype(name) for member in members for name in member.adapter.dtypes]
    wide = kinds[0]
    for kind in kinds[1:]:
        wide = torch.promote_types(wide, kind)
    return safetensors_dtype(wide)
