"""From what a user names (tasks of a store, folders, files) to a base and its experts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltakit.delta import Delta
from deltakit.delta_source import DeltaSource, ModelDelta
from deltakit.engine import Expert
from deltakit.errors import BadValue, NotFound, UnknownName, WrongBase, nearest
from deltakit.lora import is_adapter, open_adapter
from deltakit.lora.delta import AdapterDelta
from deltakit.provenance import ModelTable
from deltakit.recipe import Recipe, Task
from deltakit.store import Store
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.reader import SafetensorsFile
from deltakit.unified import UnifiedTask, is_unified_task


@dataclass(frozen=True)
class Resolved:
    """A base and the experts made from it, opened.

    `table` is what a store knows of the base; None for a base given by path.
    """

    base: Checkpoint
    table: ModelTable | None
    experts: list[Expert]
    paths: list[str]  # of the experts, as a recipe keeps them


def resolve(
    names: Sequence[str],
    base: str | None = None,
    store: Store | None = None,
    importance: Sequence[str | Path] = (),
) -> Resolved:
    """Open what the names stand for.

    >>> resolve(["./ft-a", "b=./ft-b"], base="./base")               # doctest: +SKIP

    A name is a task of the store, or the path of a model folder or of a delta file; a path counts
    as one when it holds a separator or ends in .safetensors, else the store is asked first.
    `label=PATH` gives an expert another name than its folder's. The base is that of the tasks, or
    `base`, a path or a name in the store. `importance` replaces the tasks' own maps, one each.
    Raises UnknownName, NotFound, WrongBase when tasks have different bases.
    """
    if not names:
        raise BadValue("no task is named", remedy="name tasks of the store, or paths of models")
    if importance and len(importance) != len(names):
        raise BadValue(
            "an importance map goes with each task",
            expected=f"{len(names)} maps, in the order of the tasks",
            got=f"{len(importance)}",
        )
    found = [locate(name, store) for name in names]
    model, table = _base(found, base, store)
    stored = [place.importance for place in found]
    for path in importance:
        refuse_undecodable(f"{path}")
    maps = [Path(path) for path in importance] if importance else stored
    experts = [
        Expert(place.label, open_source(place.path), found_map)
        for place, found_map in zip(found, maps, strict=True)
    ]
    return Resolved(model, table, experts, [str(place.path) for place in found])


def reopen(recipe: Recipe, store: Store | None = None) -> Resolved:
    """Open what a recipe names: its paths as they stand, and tasks without one in the store.

    The experts are its tasks, then its models, by name.
    """
    found = [_placed(task, store) for task in recipe.tasks]
    model, table = _base(found, recipe.base or None, None if recipe.base else store)
    found += [Place(name, Path(path)) for name, path in sorted(recipe.models.items())]
    experts = [Expert(place.label, open_source(place.path), place.importance) for place in found]
    return Resolved(model, table, experts, [str(place.path) for place in found])


def base_of(recipe: Recipe, base: str | None = None, store: Store | None = None) -> Checkpoint:
    """Open the base of a recipe, or another given for it; no task has to be there."""
    named = base or recipe.base or None
    places = [] if named else [_placed(task, store) for task in recipe.tasks]
    return _base(places, named, store if base or not named else None)[0]


def _placed(task: Task, store: Store | None) -> Place:
    own = None if task.importance is None else Path(task.importance)
    if task.path:
        return Place(task.name, Path(task.path), importance=own)
    if store is None:
        raise BadValue(
            f"the task {task.name!r} has no path, and there is no store to look it up in",
            remedy="write its path, or merge where the store is (--store DIR)",
        )
    known = store.task(task.name)
    return Place(task.name, known.delta_path, known.base, own or known.importance_path)


@dataclass(frozen=True)
class Place:
    """Where an expert lies, and what it is called."""

    label: str
    path: Path
    base: str | None = None  # name of its base in the store
    importance: Path | None = None


def locate(name: str, store: Store | None = None) -> Place:
    """Return what a name stands for; `resolve` says how it is read, and what is raised."""
    refuse_undecodable(name)
    label, equals, rest = name.partition("=")
    named = equals != "" and os.sep not in label
    given = rest if named else name
    if not given or (named and not label):
        raise BadValue(
            f"{'the path' if label else 'the name of a task'} is empty",
            got=name or "''",
            remedy="write NAME=PATH, or the path alone",
        )
    is_path = os.sep in given or given in (".", "..") or given.endswith(".safetensors")
    if not is_path and store is not None and given in store.tasks():
        task = store.task(given)
        return Place(
            label if given != name else given, task.delta_path, task.base, task.importance_path
        )
    path = Path(given)
    if path.exists():
        return Place(label if given != name else _label(path), path)
    if is_path:
        raise NotFound("no such model or delta", where=given, remedy="check the path")
    known = store.tasks() if store is not None else []
    close = nearest(given, known)
    no_store = f"give a path, as ./{given}, or make a store: deltakit init"
    remedy = "see: deltakit ls" if store is not None else no_store
    raise UnknownName(
        f"{given!r} is neither a task nor a path",
        where=str(store.folder) if store is not None else "no store here or in a folder above",
        remedy=f"did you mean {close!r}?" if close else remedy,
    )


def refuse_undecodable(name: str) -> None:
    """Raise BadValue for a path that no recipe can hold, as recipes are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadValue(
            "the path is not UTF-8, and so no recipe can name it",
            where=name,
            remedy="rename it, or give a link to it of another name",
        ) from None


def _label(path: Path) -> str:
    """Return the name of an expert given by path: the task a delta was made for, or the folder."""
    if path.is_dir():
        return path.resolve().name
    return SafetensorsFile(path).header.metadata.get("task") or path.stem


def open_source(path: Path) -> DeltaSource:
    """Open a path as one expert: an adapter, a delta, a task of a unified one, or a model."""
    if is_adapter(path):
        return AdapterDelta(open_adapter(path))
    metadata = SafetensorsFile(path).header.metadata if path.is_file() else {}
    if is_unified_task(metadata):
        return UnifiedTask.open(path)
    if "deltakit" in metadata:
        return Delta.open(path)
    return ModelDelta(Checkpoint.open(path))


def _base(
    found: Sequence[Place], base: str | None, store: Store | None
) -> tuple[Checkpoint, ModelTable | None]:
    if base is not None:
        refuse_undecodable(base)
        if store is not None and os.sep not in base and base in store.bases():
            return store.open_base(base)
        return Checkpoint.open(base), None
    bases = {place.base: place for place in found if place.base is not None}
    if not bases or store is None:
        raise BadValue(
            "no base is named, and none of these is a task of a store",
            remedy="add --base PATH: the model that all of them were fine-tuned from",
        )
    if len(bases) > 1:
        first, second = list(bases.values())[:2]
        raise WrongBase(
            "the tasks were made from different bases",
            expected=f"{first.base}, as {first.label}",
            got=f"{second.base}, for {second.label}",
            remedy="merge tasks of one base",
        )
    return store.open_base(next(iter(bases)))
