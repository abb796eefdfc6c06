"""Which models a configuration merges, and which of their layers become which of the output's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from deltakit import recipe
from deltakit.errors import BadFile
from deltakit.mergekit.config import Config, Slice
from deltakit.mergekit.methods import Method, method
from deltakit.mergekit.models import names_of, path_of, slices_of
from deltakit.stacking import stack
from deltakit.strategies import depths, layer
from deltakit.tensors.checkpoint import Checkpoint

Range = tuple[int, int]  # from the first layer up to but not with the last


@dataclass(frozen=True)
class Layout:
    """The models of a merge, and its slices in the output's layers.

    `slices` is empty where the output's layers are the models' own.
    """

    base: str
    tasks: Mapping[str, str]  # name of each task -> its path
    parts: Sequence[Slice]
    taken: Sequence[bool]  # whether each part is one model's layers as they are
    ranges: Sequence[Range]  # of each part, in the output
    slices: Sequence[recipe.Slice]
    names: Sequence[str]  # of the output's tensors

    def place(self, name: str, before: bool) -> int:
        """Return the part that a tensor is of: outside of layers the first or the last."""
        number = layer(name)
        if number is None:
            return 0 if before else len(self.parts) - 1
        return next(i for i, (first, stop) in enumerate(self.ranges) if first <= number < stop)

    def places(self) -> dict[str, int]:
        """Return the part of each of the output's tensors."""
        where = depths(self.names)
        return {name: self.place(name, where[name] == 0.0) for name in self.names}


def layout(config: Config) -> Layout:
    """Return what a configuration's models and slices mean; opens the models' headers."""
    way = method(config.merge_method)
    parts = slices_of(config)
    base = None if config.base_model is None else path_of(config.base_model, "base_model")
    first = path_of(parts[0].sources[0].model, "model")
    if base is None and way.needs_base:
        raise BadFile(f"base_model is missing, which {config.merge_method} needs")
    model = Checkpoint.open(base or first)
    each = [_ranges(part, _layers(model)) for part in parts]
    plain = config.merge_method != "passthrough" and _plain(each, _layers(model))
    taken = [not plain and len(found) == 1 for found in each]
    tasks = _tasks(config, way, base, each, taken)
    sizes = [stop - start for start, stop in (next(iter(found.values())) for found in each)]
    ends = list(accumulate(sizes))
    ranges = [(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    slices = [] if plain else _slices(config, way, base or first, tasks, each, taken)
    names = list(model.infos)
    if slices:
        names = list(stack(slices, model, {n: Checkpoint.open(p) for n, p in tasks.items()}).base)
    return Layout(base or first, tasks, parts, taken, ranges, slices, names)


def _layers(model: Checkpoint) -> int:
    return 1 + max((n for n in map(layer, model.infos) if n is not None), default=-1)


def _ranges(part: Slice, layers: int) -> dict[str, Range]:
    """Return the layers of each model of a slice."""
    found: dict[str, Range] = {}
    for source in part.sources:
        path = path_of(source.model, "model")
        if path in found:
            raise BadFile("a model is there twice", got=path)
        start, stop = source.layer_range or (0, layers)
        if not 0 <= start < stop:
            raise BadFile(
                "slices: a layer_range without layers",
                expected="the first layer, and the one after the last",
                got=f"[{start}, {stop}]",
            )
        found[path] = start, stop
    if len({stop - start for start, stop in found.values()}) > 1:
        raise BadFile(
            "slices: sources of one slice of different numbers of layers",
            got=", ".join(f"[{start}, {stop}]" for start, stop in found.values()),
        )
    return found


def _plain(each: Sequence[Mapping[str, Range]], layers: int) -> bool:
    """Tell whether all layers are there once, in order, of the same models."""
    end = 0
    for found in each:
        if set(found) != set(each[0]) or len(set(found.values())) > 1:
            return False
        start, stop = next(iter(found.values()))
        if start != end:
            return False
        end = stop
    return end == layers


def _tasks(
    config: Config,
    way: Method,
    base: str | None,
    each: Sequence[Mapping[str, Range]],
    taken: Sequence[bool],
) -> dict[str, str]:
    """Return the models that are tasks, by name: all but a base that only the deltas are to."""
    merged = [path for found, one in zip(each, taken, strict=True) if not one for path in found]
    lone = [path for found, one in zip(each, taken, strict=True) if one for path in found]
    own = base or next(iter(each[0]))
    if way.needs_base:
        merged = [path for path in merged if path != base]
        if config.merge_method == "slerp" and not all(taken):
            merged = [f"{base}", *merged]
    elif base is not None and merged and base not in merged:
        raise BadFile("base_model is not among the models, and linear has no use for it")
    paths = list(dict.fromkeys([*merged, *(path for path in lone if path != own)]))
    named = zip(names_of(paths), paths, strict=True)
    # A slice that takes layers of "base", or a token with its row, is to mean the base.
    clash = any(taken) or (config.tokenizer is not None and bool(config.tokenizer.tokens))
    return {f"{n}-1" if clash and n == recipe.BASE and p != own else n: p for n, p in named}


def _slices(
    config: Config,
    way: Method,
    base: str,
    tasks: Mapping[str, str],
    each: Sequence[Mapping[str, Range]],
    taken: Sequence[bool],
) -> list[recipe.Slice]:
    """Return the slices in a recipe's words."""
    called = {path: name for name, path in tasks.items()}
    made = []
    for number, (found, one) in enumerate(zip(each, taken, strict=True), 1):
        start, stop = found.get(base, next(iter(found.values())))
        layers: list[int] = [start, stop - 1]
        if one:
            path = next(iter(found))
            _check_alone(config, way, path, number)
            made.append(recipe.Slice(layers=layers, take=called.get(path, recipe.BASE)))
            continue
        if config.merge_method == "passthrough":
            raise BadFile("passthrough takes one source a slice", where=f"slice {number}")
        missing = [name for name, path in tasks.items() if path not in found]
        if missing and not way.sums:
            raise BadFile(
                f"slices: {config.merge_method} leaves no model out by its weight, so each slice"
                " is to be made of the same models",
                where=f"slice {number}",
                expected=f"also {', '.join(missing)}",
            )
        others = {called[p]: [a, b - 1] for p, (a, b) in found.items() if p in called}
        made.append(
            recipe.Slice(
                layers=layers, task_layers={n: r for n, r in others.items() if r != layers}
            )
        )
    return made


def _check_alone(config: Config, way: Method, path: str, number: int) -> None:
    """Raise BadFile where a method does not give the one source of a slice itself."""
    same = config.merge_method in ("passthrough", "linear")
    if not same and (config.base_model is None or path != path_of(config.base_model, "base_model")):
        raise BadFile(
            f"slices: {config.merge_method} of one source is not that source",
            where=f"slice {number}",
            remedy="name the base_model among the sources, or stack with passthrough",
        )
