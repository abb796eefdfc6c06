"""Parts: the slices of a configuration, each with its models, their layers and its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltakit.errors import BadFile
from deltakit.mergekit.config import Config, Slice
from deltakit.mergekit.methods import Method
from deltakit.mergekit.models import path_of

Range = tuple[int, int]  # from the first layer up to but not with the last


@dataclass(frozen=True)
class Part:
    """One slice of the output."""

    given: Slice
    ranges: Mapping[str, Range]  # the layers of each model, by path
    base: str  # the path of the model that is its base
    taken: bool  # whether it is one model's layers as they are
    merged: Mapping[str, str]  # path of each task that has a part in it -> of the model that is it

    @property
    def size(self) -> int:
        """The number of its layers."""
        start, stop = next(iter(self.ranges.values()))
        return stop - start


def base_of(config: Config, way: Method, part: Slice, number: int) -> str | None:
    """Return the path of a slice's base; None where none is named, and the method needs none."""
    if way.needs_base and part.base_model is not None:
        return path_of(part.base_model, f"slice {number}, base_model")
    if config.base_model is not None:
        return path_of(config.base_model, "base_model")
    if way.needs_base:
        raise BadFile(f"base_model is missing, which {config.merge_method} needs")
    return None


def ranges_of(part: Slice, layers: int) -> dict[str, Range]:
    """Return the layers of each model of a slice, of a model of so many layers."""
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


def parts_of(
    config: Config,
    way: Method,
    given: Sequence[Slice],
    each: Sequence[Mapping[str, Range]],
    bases: Sequence[str],
    plain: bool,
) -> list[Part]:
    """Return the slices; `plain` where the output's layers are the models' own."""
    taken = [not plain and len(found) == 1 for found in each]
    members: list[list[str]] = []
    for number, (found, base, one) in enumerate(zip(each, bases, taken, strict=True), 1):
        if one:
            _check_alone(config, base, next(iter(found)), number)
        elif config.merge_method == "passthrough":
            raise BadFile("passthrough takes one source a slice", where=f"slice {number}")
        paths = [path for path in found if not (way.needs_base and path == base)]
        first = [base] if config.merge_method == "slerp" else []
        members.append([] if one else [*first, *paths])
    merged = _filled(config, way, members)
    return [Part(*made) for made in zip(given, each, bases, taken, merged, strict=True)]


def _filled(
    config: Config, way: Method, members: Sequence[Sequence[str]]
) -> list[Mapping[str, str]]:
    """Return which model is which task in each slice, by paths.

    Where a task can have no part in a slice, tasks are the models. Else all slices merge as many
    models, and the tasks are those of the first that merges: another has the place of one that is
    not there.
    """
    if way.sums or way.elects:
        return [{path: path for path in each} for each in members]
    tasks = next((each for each in members if each), [])
    found: list[Mapping[str, str]] = []
    for number, each in enumerate(members, 1):
        if each and len(each) != len(tasks):
            raise BadFile(
                f"slices: {config.merge_method} leaves no model out, so each slice is to be made of"
                " as many",
                where=f"slice {number}",
                expected=f"{len(tasks)} models beside the base, as the first that merges",
                got=f"{len(each)}",
            )
        own = [] if config.merge_method == "slerp" else [path for path in each if path in tasks]
        rest = iter([path for path in each if path not in own])
        found.append({task: task if task in own else next(rest) for task in tasks if each})
    return found


def _check_alone(config: Config, base: str, path: str, number: int) -> None:
    """Raise BadFile where a method does not give the one source of a slice itself."""
    if config.merge_method not in ("passthrough", "linear") and path != base:
        raise BadFile(
            f"slices: {config.merge_method} of one source is not that source",
            where=f"slice {number}",
            remedy="name it as the slice's base_model, or stack with passthrough",
        )
