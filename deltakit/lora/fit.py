"""Fitting an adapter to a base: which tensor of the base each of its modules stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from deltakit.errors import BadValue, NamesDiffer, ShapeMismatch, nearest, some
from deltakit.lora.adapter import Adapter, Part
from deltakit.lora.kohya import unflatten
from deltakit.lora.tied import repeated
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.quantised import refuse_quantised, refuse_scaled
from deltakit.tensors.source import TensorSource
from deltakit.tensors.tied import is_embedding, is_head, ties_embeddings


@dataclass(frozen=True)
class Fit:
    """What of an adapter goes to which tensor of a base; by the base's names."""

    weights: Mapping[str, tuple[Part, bool]]  # part, and whether the weight is (inputs, outputs)
    biases: Mapping[str, Part]
    whole: Mapping[str, str]  # tensor -> the adapter's name of it
    rows: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> set[str]:
        return {*self.weights, *self.biases, *self.whole, *self.rows}


def fit(adapter: Adapter, base: TensorSource) -> Fit:
    """Return where everything of the adapter goes, or raise; nothing is passed over.

    Raises NamesDiffer naming the nearest names of both sides, ShapeMismatch, BadFile for a
    quantised base, BadValue for what a base with tied embeddings cannot hold.
    """
    notes: list[str] = []
    wanted = adapter.parameters
    refuse_quantised(base, wanted)  # some ways to quantise take the weight's name away
    if adapter.flat:
        modules = [n.removesuffix(".weight") for n in base.infos if n.endswith(".weight")]
        names = {
            f"{flat}.weight": f"{m}.weight" for flat, m in unflatten(adapter.parts, modules).items()
        }
    else:
        copies = repeated([name for name in wanted if name not in base.infos], adapter)
        names = _names([n for n in wanted if n not in copies], adapter, base, notes)
        notes += [f"{adapter.label}: {name} is tied to {of}" for name, of in copies.items()]
    refuse_quantised(base, names.values())
    weights: dict[str, tuple[Part, bool]] = {}
    biases: dict[str, Part] = {}
    for part in adapter.parts.values():
        if f"{part.module}.weight" not in names:  # the other end of a tie: it goes in once
            continue
        target = names[f"{part.module}.weight"]
        weights[target] = part, _is_transposed(part, target, adapter, base)
        if part.bias is not None:
            target = names[f"{part.module}.bias"]
            _check_shape(target, (part.outputs,), adapter, base)
            biases[target] = part
    whole = {names[name]: name for name in adapter.whole if name in names}
    if _ties_head(base) and not any(map(is_head, wanted)):
        notes += [
            f"{adapter.label}: the head is tied to {target} and changes with it"
            for target in sorted({*weights, *whole})
            if is_embedding(target)
        ]
    for target, name in whole.items():
        _check_shape(target, adapter.source.infos[adapter.whole[name]].shape, adapter, base)
    rows = {names[name]: name for name in adapter.rows}
    for target, name in rows.items():
        _check_rows(target, name, adapter, base)
    return Fit(weights, biases, whole, rows, notes)


def _names(
    wanted: Iterable[str], adapter: Adapter, base: TensorSource, notes: list[str]
) -> dict[str, str]:
    """Return the base's name of each parameter: the same, or with one prefix more or less.

    A model saved without its head lacks the prefix that its heads' classes put before all names.
    """
    wanted = list(wanted)
    first = wanted[0] if wanted else ""
    longer = {n[: -len(first)] for n in base.infos if first and n.endswith(f".{first}")}
    shorter = first.partition(".")[0] + "."
    ways = [("", ""), *((prefix, "") for prefix in sorted(longer)), ("", shorter)]
    found = [
        (more, less)
        for more, less in ways
        if all(n.startswith(less) and more + n[len(less) :] in base.infos for n in wanted)
    ]
    if not found:
        _refuse_missing(wanted, adapter, base)
    more, less = found[0]
    if (more, less) != ("", "") and len(found) > 1:
        raise BadValue(
            "the adapter fits two parts of the base",
            where=adapter.label,
            got=some([prefix for prefix, _ in found]),
            remedy="give the part that it was trained on as the base",
        )
    if more or less:
        notes.append(
            f"{adapter.label}: named {more or less!r} {'less' if more else 'more'}"
            " than the base's tensors are"
        )
    return {name: more + name[len(less) :] for name in wanted}


def _refuse_missing(wanted: Sequence[str], adapter: Adapter, base: TensorSource) -> NoReturn:
    refuse_scaled(base, base.infos)  # under other names, the weights' own may be gone
    missing = [name for name in wanted if name not in base.infos]
    heads = [name for name in missing if _ties_head(base) and is_head(name)]
    if heads:
        raise BadValue(
            f"the adapter changes {heads[0]!r}, which the base ties to its embeddings",
            where=adapter.label,
            got=base.label,
            remedy="save the base with untied embeddings first (tie_word_embeddings false,"
            " and lm_head.weight among its tensors)",
        )
    close = nearest(missing[0], base.infos)
    none = len(missing) == len(wanted)
    raise NamesDiffer(
        "nothing would be applied: the base has no module of the adapter"
        if none
        else f"the base lacks {len(missing)} of the {len(wanted)} parameters the adapter changes",
        where=adapter.label,
        expected=f"{close or some(base.infos, 3)}, as in {base.label}",
        got=some(missing),
        remedy="give the base that the adapter was trained on"
        + ("" if none else ", saved with the class it was trained as (with its heads)"),
    )


def _ties_head(base: TensorSource) -> bool:
    return isinstance(base, Checkpoint) and ties_embeddings(base.config())


def _is_transposed(part: Part, target: str, adapter: Adapter, base: TensorSource) -> bool:
    """Tell whether the base's weight is (inputs, outputs), as embeddings and GPT-2's Conv1D are."""
    shape = base.infos[target].shape
    straight = (part.outputs, *part.inputs)
    turned = (*part.inputs, part.outputs)
    if part.kind == "embedding" or shape == turned != straight:
        straight = turned
    elif shape == turned and adapter.config.fan_in_fan_out:
        return True
    if shape != straight:
        raise ShapeMismatch(
            f"the adapter does not fit the base's {target!r}",
            where=adapter.label,
            expected=f"{list(shape)}, as in {base.label}",
            got=f"{list(straight)}",
            remedy="a vocabulary resized for training must be resized in the base too; else give"
            " the base that the adapter was trained on",
        )
    return straight is turned


def _check_shape(target: str, shape: tuple[int, ...], adapter: Adapter, base: TensorSource) -> None:
    if base.infos[target].shape != shape:
        raise ShapeMismatch(
            f"the tensor that the adapter keeps for {target!r} has another shape",
            where=adapter.label,
            expected=f"{list(base.infos[target].shape)}, as in {base.label}",
            got=f"{list(shape)}",
            remedy="a vocabulary or head resized for training must be resized in the base too",
        )


def _check_rows(target: str, name: str, adapter: Adapter, base: TensorSource) -> None:
    rows = adapter.rows[name]
    shape, kept = base.infos[target].shape, adapter.source.infos[rows.tensor].shape
    if len(shape) != 2 or shape[1] != kept[1] or max(rows.indices) >= shape[0]:
        raise ShapeMismatch(
            f"the rows that the adapter keeps of {target!r} are not rows of it",
            where=adapter.label,
            expected=f"rows of {list(shape)}, as in {base.label}",
            got=f"{list(kept)}, numbers up to {max(rows.indices)}",
        )
