"""The importance maps of a merge: opened where a strategy needs them, and what they must fit."""

from __future__ import annotations

from collections.abc import Sequence

from deltakit.engine.checks import Expert
from deltakit.engine.groups import Group
from deltakit.errors import BadValue, DeltakitError, NamesDiffer, ShapeMismatch, WrongBase, some
from deltakit.importance import ImportanceMap
from deltakit.provenance import ModelTable
from deltakit.strategies import check_heads
from deltakit.tensors.source import TensorSource


def open_maps(groups: Sequence[Group], experts: Sequence[Expert]) -> list[ImportanceMap]:
    """Open every task's map where a strategy needs them; one that is missing is an error."""
    needing = [m for group in groups for m in group.methods if m.needs_importance]
    if not needing:
        return []
    strategy = needing[0]
    if any(method.statistic != strategy.statistic for method in needing):
        raise BadValue(
            "the rules need different maps, scores and Gram matrices, and a task has one",
            remedy="merge with those of one kind",
        )
    without = [expert.name for expert in experts if expert.importance is None]
    if without:
        raise BadValue(
            f"the strategy needs an importance map of every task; none for {some(without)}",
            remedy=(
                f"deltakit importance {without[0]} --kind gram --model PATH --data FILE"
                if strategy.statistic == "gram"
                else "capture one in training (KlfImportance), or:"
                f" deltakit importance {without[0]}"
            )
            + "; for models given by path add --importance FILE once a task",
        )
    maps = [ImportanceMap.open(expert.importance) for expert in experts if expert.importance]
    for expert, found in zip(experts, maps, strict=True):
        if (found.units == "gram") != (strategy.statistic == "gram"):
            wanted = "Gram matrices" if strategy.statistic == "gram" else "scores"
            kind = "gram" if strategy.statistic == "gram" else "fisher"
            raise BadValue(
                f"the importance map of task {expert.name!r} holds other than {wanted}",
                where=str(expert.importance),
                got=f"units {found.units!r}",
                remedy=f"deltakit importance {expert.name} --kind {kind} --model PATH --data FILE",
            )
    return maps


def check_common(
    experts: Sequence[Expert],
    maps: Sequence[ImportanceMap],
    base: TensorSource,
    merged: Sequence[str],
) -> None:
    """Raise NamesDiffer for a parameter that only some maps score, ShapeMismatch for its scores.

    One that no map scores (a buffer, which training has no gradient for) matters to all alike.
    """
    for expert, found in zip(experts, maps, strict=False):
        artifact = f"the importance map of task {expert.name!r}"
        missing = [n for n in merged if n not in found and any(n in other for other in maps)]
        if missing:
            raise NamesDiffer(
                f"{artifact} lacks parameters that another map has",
                where=some(missing),
                remedy="capture all maps over the same parameters",
            )
        if found.units == "head":
            try:
                check_heads(found, {n: base.infos[n].shape for n in merged if n in found})
            except DeltakitError as error:
                raise error.at(artifact) from None
            continue
        for name in (name for name in merged if name in found):
            shape, scores = base.infos[name].shape, found[name]
            fitting = [(shape[-1:] * 2)] if found.units == "gram" else [(), shape[:1], shape]
            one = found.units != "gram" and scores.numel() == 1
            if not one and tuple(scores.shape) not in fitting:
                raise ShapeMismatch(
                    f"{artifact} does not fit a parameter",
                    where=name,
                    expected=" or ".join(str(list(fits)) for fits in fitting),
                    got=f"{list(scores.shape)}",
                )


def notes_on_maps(experts: Sequence[Expert], maps: Sequence[ImportanceMap]) -> list[str]:
    notes = [
        f"{expert.name}: its importance map was measured for {found.task!r}"
        for expert, found in zip(experts, maps, strict=False)
        if found.task not in ("", expert.name)
    ]
    kinds = {found.score for found in maps}
    if len(kinds) > 1:
        notes.append(f"importance maps of different scores are compared: {some(kinds)}")
    return notes


def check_map(
    found: ImportanceMap, base: TensorSource, table: ModelTable | None, artifact: str
) -> None:
    """Raise WrongBase for an importance map of another base, naming what differs."""
    strange = [name for name in found if name not in base.infos]
    if strange:
        raise WrongBase(
            f"{artifact} names parameters the base does not have",
            where=base.label,
            got=some(strange),
            remedy="capture importance on a fine-tune of this base",
        )
    if found.base is not None and table is not None and found.base != table.fingerprint:
        raise WrongBase(
            f"{artifact} was made against another base",
            where=base.label,
            expected=f"fingerprint {found.base}",
            got=f"fingerprint {table.fingerprint}",
            remedy="give the base it was made against",
        )
