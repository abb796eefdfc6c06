"""Stack: the layers of an output model, each with the layers of the models it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from deltakit.delta_source import check_alike
from deltakit.errors import BadValue, DeltakitError
from deltakit.recipe import BASE, ModelLayers, Slice
from deltakit.recipe.layers import Layers, layer_range, text
from deltakit.stacking.layered import Layered, shapes
from deltakit.strategies import with_layer
from deltakit.tensors.mosaic import Mosaic
from deltakit.tensors.source import TensorSource

MOST_LAYERS = 10_000  # of an output; models in use have some hundred


@dataclass(frozen=True)
class Level:
    """One layer of the output: of which slice it is, and which layer of each model it is.

    `taken` is the model whose layer it is, as it is; else it is merged, of the layer of a `base`
    and that of each task, or of the model in its place.
    """

    slice: int  # from 0
    taken: str | None
    layer: int  # of the model it is taken from, or of the base
    tasks: Mapping[str, int]  # of each task that is merged
    base: str = BASE
    places: Mapping[str, str] = field(default_factory=dict)  # of tasks: the model that is merged

    @property
    def model(self) -> str:
        """The model that it is taken from, or that is its base."""
        return self.taken or self.base

    def of(self, task: str) -> str:
        """Return the model whose layer is merged as a task's."""
        return self.places.get(task, task)


@dataclass(frozen=True)
class Stack:
    """A base and tasks as models of the output's names.

    Tensors before the layers are the first slice's, those after them the last's.
    """

    levels: Sequence[Level]
    base: Mosaic = field(repr=False)  # with what is taken, of whatever model
    tasks: Mapping[str, Mosaic] = field(repr=False)  # what is merged of each
    homes: Mapping[str, Level] = field(repr=False)  # of each name of the output
    outer: Sequence[str]  # the models, not the base, that tensors outside of the layers are of
    base_layers: int  # how many the base has itself

    @property
    def taken(self) -> frozenset[str]:
        """The names of the output that are taken as they are."""
        return frozenset(name for name, level in self.homes.items() if level.taken is not None)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the first and last layer of each slice in the output."""
        numbers: dict[int, list[int]] = {}
        for number, level in enumerate(self.levels):
            numbers.setdefault(level.slice, []).append(number)
        return [(min(each), max(each)) for each in numbers.values()]


def stack(
    slices: Sequence[Slice],
    base: TensorSource,
    tasks: Mapping[str, TensorSource],
    others: Mapping[str, TensorSource] | None = None,
) -> Stack:
    """Return the stack of some slices; `others` are models that are no tasks.

    >>> import torch
    >>> from deltakit.tensors.source import MemoryTensors
    >>> base = MemoryTensors({f"h.{n}.w": torch.tensor([n]) for n in range(3)})
    >>> found = stack([Slice(layers="0-1"), Slice(layers="1-", take="base")], base, {"a": base})
    >>> [found.base[name].item() for name in found.base], sorted(found.taken)
    ([0, 1, 1, 2], ['h.2.w', 'h.3.w'])

    Raises BadValue for layers that a model does not have, NamesDiffer and ShapeMismatch for a layer
    that is not as the base's.
    """
    every = {**(others or {}), **tasks}
    models = {name: Layered.of(source) for name, source in every.items()}
    own = Layered.of(base)
    models.setdefault(BASE, own)
    levels: list[Level] = []
    for number, part in enumerate(slices):
        with _in_slice(number):
            levels += _levels(number, part, own, models, list(tasks))
            if len(levels) > MOST_LAYERS:
                raise BadValue("the slices have too many layers", expected=f"{MOST_LAYERS} at most")
    return _made(levels, own, models, list(tasks))


@contextmanager
def _in_slice(number: int) -> Iterator[None]:
    try:
        yield
    except DeltakitError as error:
        raise error.at(f"slice {number + 1}") from None


def _levels(
    number: int, part: Slice, own: Layered, models: Mapping[str, Layered], tasks: Sequence[str]
) -> list[Level]:
    if part.take is not None:
        taken = _numbers(part.layers, models[part.take])
        return [Level(number, part.take, layer, {}) for layer in taken]
    base = part.base or BASE
    numbers = _numbers(part.layers, own if base == BASE else models[base])
    each, places = {}, {}
    for task in tasks:
        told = part.task_layers.get(task, part.layers)
        if isinstance(told, ModelLayers):
            places[task], told = told.model, told.layers
        each[task] = _numbers(told, models[places.get(task, task)])
        if len(each[task]) != len(numbers):
            raise BadValue(
                f"the layers of task {task!r} are of another number than the base's",
                expected=f"{len(numbers)} layers, as {text(part.layers)}",
                got=f"{len(each[task])}: {text(told)}",
            )
    return [
        Level(number, None, layer, {task: each[task][at] for task in tasks}, base, places)
        for at, layer in enumerate(numbers)
    ]


def _numbers(layers: Layers, model: Layered) -> range:
    try:
        first, last = layer_range(layers, len(model.layers) - 1)
    except DeltakitError as error:
        raise error.at(model.source.label) from None
    return range(first, last + 1)


def _made(
    levels: Sequence[Level], own: Layered, models: Mapping[str, Layered], tasks: Sequence[str]
) -> Stack:
    places: dict[str, tuple[TensorSource, str]] = {}
    merged: dict[str, dict[str, tuple[TensorSource, str]]] = {task: {} for task in tasks}
    homes: dict[str, Level] = {}
    outer: set[str] = set()

    def put(
        names: Mapping[str, str], model: Layered, into: dict[str, tuple[TensorSource, str]]
    ) -> None:
        into |= {name: (model.source, there) for name, there in names.items()}

    def outside(level: Level, which: str) -> None:
        """Place what lies outside of the layers, as the slice of a level has it."""
        model = own if level.model == BASE else models[level.model]
        names = getattr(model, which)
        if model is not own:
            with _in_slice(level.slice):
                wanted = own.infos(getattr(own, which))
                check_alike(wanted, model.infos(names), model.source.label)
        homes.update(dict.fromkeys(names, level))
        put({name: name for name in names}, model, places)
        for task in level.tasks:
            theirs = models[level.of(task)]
            put({name: name for name in getattr(theirs, which)}, theirs, merged[task])
        outer.update([level.model, *map(level.of, level.tasks)])

    def named(model: Layered, layer: int, number: int) -> dict[str, str]:
        return {with_layer(name, number): there for name, there in model.layers[layer].items()}

    fitting = {shapes(own.layer_infos(number)) for number in range(len(own.layers))}
    outside(levels[0], "before")
    for number, level in enumerate(levels):
        model = own if level.model == BASE else models[level.model]
        found = named(model, level.layer, number)
        if model is not own:
            with _in_slice(level.slice):
                model.check_fits(level.layer, own, fitting)
        homes.update(dict.fromkeys(found, level))
        put(found, model, places)
        for task, layer in level.tasks.items():
            theirs = models[level.of(task)]
            put(named(theirs, layer, number), theirs, merged[task])
    outside(levels[-1], "after")
    return Stack(
        levels,
        Mosaic(places, own.source.label),
        {task: Mosaic(merged[task], models[task].source.label) for task in tasks},
        homes,
        sorted(name for name in outer if models[name] is not own),
        len(own.layers),
    )
