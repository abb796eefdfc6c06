"""Which models a configuration merges, and which of their layers become which of the output's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from deltakit import recipe
from deltakit.errors import BadFile
from deltakit.mergekit.config import Config
from deltakit.mergekit.methods import method
from deltakit.mergekit.models import names_of, path_of, slices_of
from deltakit.mergekit.parts import Part, Range, base_of, parts_of, ranges_of
from deltakit.stacking import stack
from deltakit.strategies import depths, layer
from deltakit.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class Layout:
    """The models of a merge, and its slices in the output's layers.

    `slices` is empty where the output's layers are the models' own.
    """

    base: str
    tasks: Mapping[str, str]  # name of each task -> its path
    models: Mapping[str, str]  # of models that are no tasks, whose layers slices name
    parts: Sequence[Part]
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
    way, given = method(config.merge_method), slices_of(config)
    owns = [base_of(config, way, part, number) for number, part in enumerate(given, 1)]
    base = owns[0] or path_of(given[0].sources[0].model, "model")
    if config.base_model is not None:
        base = path_of(config.base_model, "base_model")
    model = Checkpoint.open(base)
    layers = 1 + max((n for n in map(layer, model.infos) if n is not None), default=-1)
    each = [ranges_of(part, layers) for part in given]
    # Any source is a base to sum onto; a base that is named is one for all that need it.
    bases = [
        own if own and way.needs_base else base if base in found else next(iter(found))
        for own, found in zip(owns, each, strict=True)
    ]
    plain = config.merge_method != "passthrough" and _plain(each, bases, layers)
    parts = parts_of(config, way, given, each, bases, plain)
    if config.base_model is not None and not way.needs_base:
        _check_base(base, parts)
    tasks, models = _named(config, base, parts, plain)
    ends = list(accumulate(part.size for part in parts))
    ranges = [(end - part.size, end) for end, part in zip(ends, parts, strict=True)]
    slices = [] if plain else _slices(base, tasks, models, parts)
    names = list(model.infos)
    if slices:
        opened = [{n: Checkpoint.open(p) for n, p in of.items()} for of in (tasks, models)]
        names = list(stack(slices, model, *opened).base)
    return Layout(base, tasks, models, parts, ranges, slices, names)


def _plain(each: Sequence[Mapping[str, Range]], bases: Sequence[str], layers: int) -> bool:
    """Tell whether all layers are there once, in order, of the same models."""
    end = 0
    for found, base in zip(each, bases, strict=True):
        if set(found) != set(each[0]) or base != bases[0] or len(set(found.values())) > 1:
            return False
        start, stop = next(iter(found.values()))
        if start != end:
            return False
        end = stop
    return end == layers


def _check_base(base: str, parts: Sequence[Part]) -> None:
    """Raise BadFile for a base that is none of the models of a method that has no base."""
    merging = [part for part in parts if not part.taken]
    if merging and all(base not in part.ranges for part in merging):
        raise BadFile("base_model is not among the models, and linear has no use for it")


def _named(
    config: Config, base: str, parts: Sequence[Part], plain: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the models that are tasks, by name, and the others beside the base."""
    tasks = list(dict.fromkeys(path for part in parts for path in part.merged))
    used = [path for part in parts for path in (*part.ranges, part.base)]
    others = [path for path in dict.fromkeys(used) if path not in (base, *tasks)]
    # A slice of layers of "base", or a token with its row, is to mean the base.
    clash = not plain or (config.tokenizer is not None and bool(config.tokenizer.tokens))
    names = [
        f"{name}-1" if clash and name == recipe.BASE and path != base else name
        for name, path in zip(names_of([*tasks, *others]), [*tasks, *others], strict=True)
    ]
    named = list(zip(names, [*tasks, *others], strict=True))
    return dict(named[: len(tasks)]), dict(named[len(tasks) :])


def _slices(
    base: str, tasks: Mapping[str, str], models: Mapping[str, str], parts: Sequence[Part]
) -> list[recipe.Slice]:
    """Return the slices in a recipe's words."""
    called = {path: name for name, path in (*tasks.items(), *models.items())} | {base: recipe.BASE}
    made = []
    for part in parts:
        start, stop = part.ranges.get(part.base, next(iter(part.ranges.values())))
        layers: list[int] = [start, stop - 1]
        if part.taken:
            made.append(recipe.Slice(layers=layers, take=called[next(iter(part.ranges))]))
            continue
        other: dict[str, recipe.ModelLayers | list[int]] = {}
        for name, path in tasks.items():
            # The base in place of what has no part in the slice: a delta of zeros.
            model = part.merged.get(path, part.base)
            first, end = part.ranges.get(model, (start, stop))
            if model != path:
                other[name] = recipe.ModelLayers(called[model], [first, end - 1])
            elif [first, end - 1] != layers:
                other[name] = [first, end - 1]
        own = None if part.base == base else called[part.base]
        made.append(recipe.Slice(layers=layers, base=own, task_layers=dict(other)))
    return made
