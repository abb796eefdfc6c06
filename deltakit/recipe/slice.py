"""Slice: layers of a model that is stacked from the layers of others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from deltakit.errors import BadValue, UnknownName, nearest
from deltakit.recipe.layers import Layers, text
from deltakit.recipe.task import Task
from deltakit.vocabulary import BASE


class ModelLayers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers of a model that is named."""

    model: str
    layers: Layers


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The next layers of the output: taken from one model as they are, or merged.

    >>> Slice(layers="8-23", take="b")
    Slice(layers='8-23', take='b', base=None, task_layers={})

    `layers` are those of the model that `take` names ("base", a task or another model); without
    `take` they are the base's and each task's, merged as the recipe says, where `task_layers` names
    no others of a task, or another model's in its place. `base` names the model that is the base of
    these layers.
    """

    layers: Layers
    take: str | None = None
    base: str | None = None
    task_layers: dict[str, Layers | ModelLayers] = {}

    @property
    def models(self) -> list[str]:
        """The models that are named, and tasks whose layers are."""
        named = [self.take, self.base]
        each = (p.model if isinstance(p, ModelLayers) else t for t, p in self.task_layers.items())
        return [*(name for name in named if name is not None), *each]

    @property
    def text(self) -> str:
        """The slice for a reader.

        >>> Slice(layers=[4, 7], task_layers={"b": "6-9"}).text
        'layers 4-7 merged, of b layers 6-9'
        """
        if self.take is not None:
            return f"layers {text(self.layers)} of {self.take} as they are"
        own = "" if self.base is None else f" of {self.base}"
        others = "".join(
            f", in place of {task} layers {text(part.layers)} of {part.model}"
            if isinstance(part, ModelLayers)
            else f", of {task} layers {text(part)}"
            for task, part in self.task_layers.items()
        )
        return f"layers {text(self.layers)}{own} merged{others}"


def check_slices(
    slices: Sequence[Slice], tasks: Sequence[Task], base: str, models: Collection[str] = ()
) -> None:
    """Raise for a slice that names a model which is not there, and for a model that is in none."""
    names = [task.name for task in tasks]
    named = {name for part in slices for name in part.models}
    if BASE in named:
        check_base_name(tasks, base, "a slice names layers of base")
    for name in models:
        if name == BASE or name in names:
            raise BadValue(
                f"models names {name!r}, which is {'the base' if name == BASE else 'a task'} too",
                remedy="give the model another name",
            )
    for number, part in enumerate(slices, 1):
        where = f"slice {number}"
        for name in part.models:
            _check_name(name, [BASE, *names, *models], where)
        for name in part.task_layers:
            _check_name(name, names, where)
        if part.take is not None and (part.task_layers or part.base is not None):
            raise BadValue(
                "layers that are taken as they are are of one model",
                where=where,
                got=f"take: {part.take}, and {'task_layers' if part.task_layers else 'base'}",
                remedy="leave out one or the other",
            )
    merges = not slices or any(part.take is None for part in slices)
    unused = [name for name in names if not merges and name not in named]
    if unused:
        raise BadValue(
            f"no slice has a layer of the task {unused[0]!r}", remedy="take the task out"
        )
    idle = [name for name in models if name not in named]
    if idle:
        raise BadValue(f"no slice names the model {idle[0]!r}", remedy="take it out of models")


def check_base_name(tasks: Sequence[Task], base: str, told: str) -> None:
    """Raise BadValue where what is told of "base" could be of a task of that name."""
    if any(task.name == BASE and task.path != base for task in tasks):
        raise BadValue(
            f"{told}, and a task is called base too", remedy="give the task another name"
        )


def _check_name(name: str, known: Collection[str], where: str) -> None:
    if name in known:
        return
    close = nearest(name, known)
    raise UnknownName(
        f"a slice names {name!r}, which is none of the models",
        where=where,
        expected=", ".join(known),
        remedy=f"did you mean {close!r}?" if close else "name a task, or base",
    )
