"""Slice: layers of a model that is stacked from the layers of others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from deltakit.errors import BadValue, UnknownName, nearest
from deltakit.recipe.layers import Layers, text
from deltakit.recipe.task import Task
from deltakit.vocabulary import BASE


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The next layers of the output: taken from one model as they are, or merged.

    >>> Slice(layers="8-23", take="b")
    Slice(layers='8-23', take='b', task_layers={})

    `layers` are those of the model that `take` names ("base" or a task); without `take` they are
    the base's and each task's, merged as the recipe says, where `task_layers` names no others of a
    task.
    """

    layers: Layers
    take: str | None = None
    task_layers: dict[str, Layers] = {}

    @property
    def text(self) -> str:
        """The slice for a reader.

        >>> Slice(layers=[4, 7], task_layers={"b": "6-9"}).text
        'layers 4-7 merged, of b layers 6-9'
        """
        if self.take is not None:
            return f"layers {text(self.layers)} of {self.take} as they are"
        others = "".join(f", of {t} layers {text(r)}" for t, r in self.task_layers.items())
        return f"layers {text(self.layers)} merged{others}"


def check_slices(slices: Sequence[Slice], tasks: Sequence[Task], base: str) -> None:
    """Raise for a slice that names a model which is not there, and a task that is in none."""
    names = [task.name for task in tasks]
    if any(part.take == BASE for part in slices):
        check_base_name(tasks, base, "a slice takes layers of base")
    for number, part in enumerate(slices, 1):
        where = f"slice {number}"
        if part.take is not None:
            _check_name(part.take, [BASE, *names], where)
            if part.task_layers:
                raise BadValue(
                    "layers that are taken as they are are of one model",
                    where=where,
                    got=f"take: {part.take}, and task_layers",
                    remedy="leave out one or the other",
                )
        for name in part.task_layers:
            _check_name(name, names, where)
    merges = not slices or any(part.take is None for part in slices)
    unused = [name for name in names if not merges and all(part.take != name for part in slices)]
    if unused:
        raise BadValue(
            f"no slice has a layer of the task {unused[0]!r}", remedy="take the task out"
        )


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
