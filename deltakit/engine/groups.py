"""Groups: the parameters under one rule, which are what a whole-model fact is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from deltakit.recipe import Effective
from deltakit.strategies import Method


@dataclass(frozen=True)
class Group:
    """The merged parameters under one rule of a recipe.

    A strategy that looks at a whole model sees these as its model, so that a rule means the same
    as merging its parameters alone. `methods` are the different ones among them, of which there
    are several where a setting runs over depth.
    """

    rule: int  # from 1; 0 for what the recipe says of all
    names: Sequence[str] = field(repr=False)  # sorted
    methods: Sequence[Method]


def make_groups(merged: Sequence[str], effective: Mapping[str, Effective]) -> list[Group]:
    """Return the groups of some parameters, by the numbers of their rules."""
    names: dict[int, list[str]] = {}
    for name in merged:
        names.setdefault(effective[name].rule, []).append(name)
    return [
        Group(rule, found, list(_different(effective[name].method for name in found)))
        for rule, found in sorted(names.items())
    ]


def _different(methods: Iterator[Method]) -> Iterator[Method]:
    return iter({id(method): method for method in methods}.values())
