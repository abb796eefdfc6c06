"""Rule: what a recipe says of some tensors in place of what it says of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from deltakit.errors import BadValue, DeltakitError, UnknownName, nearest
from deltakit.recipe.code import code_digest
from deltakit.recipe.gradient import Number, at, check_gradient, check_whole
from deltakit.recipe.layers import Layers
from deltakit.recipe.pattern import Match
from deltakit.recipe.piece import Piece
from deltakit.strategies import (
    Masking,
    Method,
    PerTask,
    Settings,
    Weighting,
    get,
    masks,
    weights,
)

Made = TypeVar("Made", bound=Settings)

_SAYS_WHICH = ("match", "layers", "exclude")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tensors, and how they are merged.

    >>> rule = Rule(match="*.mlp.*", layers="0-5", settings={"density": [0.5, 0.1]})
    >>> own = Rule(strategy="ties", settings={"elect": "count"}, scale=1.0)
    >>> rule.over(own).method(0.5).strategy
    Ties(density=0.3, scope='tensor', elect='count', divide='weights', combine='mean')

    match: one glob or regex over whole names, or several; layers: the layers it speaks of, both
    ends in it. `exclude` keeps the base's tensor. The other fields are a recipe's; what a rule
    leaves out is as in its recipe, and a null mask, weighting or lines means none. `factor`
    multiplies tensors that a slice takes as they are.
    """

    match: Match = "*"
    layers: Layers | None = None
    exclude: bool = False
    strategy: str | None = None
    settings: dict[str, Any] = {}
    mask: Piece | UnsetType | None = UNSET
    weighting: Piece | UnsetType | None = UNSET
    lines: tuple[float, float] | UnsetType | None = UNSET
    scale: Number | None = None
    weights: dict[str, Number] = {}
    factor: Number | None = None
    strategy_digest: str | None = None

    def over(self, recipe: Rule) -> Rule:
        """Return this rule with all that it leaves out taken from the recipe's own."""
        if self.exclude:
            if self.said:
                raise BadValue(
                    f"an excluded tensor is not merged, so {self.said[0]} means nothing",
                    remedy="leave out one or the other",
                )
            return self
        same = self.strategy in (None, recipe.strategy)
        return msgspec.structs.replace(
            self,
            strategy=self.strategy or recipe.strategy,
            settings={**recipe.settings, **self.settings} if same else self.settings,
            mask=recipe.mask if self.mask is UNSET else self.mask,
            weighting=recipe.weighting if self.weighting is UNSET else self.weighting,
            lines=recipe.lines if self.lines is UNSET else self.lines,
            scale=recipe.scale if self.scale is None else self.scale,
            weights={**recipe.weights, **self.weights},
            strategy_digest=recipe.strategy_digest if same else self.strategy_digest,
        )

    def without(self, tasks: Collection[str]) -> Rule:
        """Return this rule with nothing said of some tasks."""
        left = {name: weight for name, weight in self.weights.items() if name not in tasks}
        mask = self.mask
        if mask:
            said = {name: own for name, own in mask.tasks.items() if name not in tasks}
            mask = msgspec.structs.replace(mask, tasks=said)
        return msgspec.structs.replace(self, weights=left, mask=mask)

    @property
    def said(self) -> list[str]:
        """The fields that are not left out, beside those that say which tensors."""
        fields = (field for field in self.__struct_fields__ if field not in _SAYS_WHICH)
        return [field for field in fields if getattr(self, field) not in (None, UNSET, {})]

    def method(self, depth: float) -> Method:
        """Return the method of a complete rule at a depth from 0 to 1, checked."""
        assert self.strategy is not None
        mask, weighting, lines = self.mask or None, self.weighting or None, self.lines or None
        return Method(
            _made(get, self.strategy, self.settings, depth),
            None if mask is None else _masking(mask, depth),
            None if weighting is None else _weighting(weighting, depth),
            lines,
        )

    def spelled(self) -> Rule:
        """Return a complete rule with the settings of all its pieces spelled out."""
        if self.exclude:
            return self
        method = self.method(0.0)
        assert self.strategy is not None
        return msgspec.structs.replace(
            self,
            settings=_spelled(method.strategy, self.settings),
            mask=_piece(self.mask or None, method.mask),
            weighting=_piece(self.weighting or None, method.weighting),
            strategy_digest=code_digest(self.strategy, self.strategy_digest),
        )

    @property
    def gradients(self) -> bool:
        """Whether anything runs over depth, so that the rule differs from layer to layer."""
        pieces = [
            settings
            for piece in (self.mask, self.weighting)
            if piece
            for settings in (piece.settings, *piece.tasks.values())
        ]
        numbers = [self.scale, self.factor, *self.weights.values()]
        given = [*numbers, *(v for settings in (self.settings, *pieces) for v in settings.values())]
        return any(isinstance(value, list) for value in given)


def settings_at(settings: Mapping[str, Any], depth: float) -> dict[str, Any]:
    """Return settings at a depth, gradients as the number they are there."""
    for name, value in settings.items():
        check_gradient(name, value)
    return {name: at(value, depth) for name, value in settings.items()}


def _made(
    make: Callable[[str, dict[str, Any]], Made],
    name: str,
    settings: Mapping[str, Any],
    depth: float,
) -> Made:
    made = make(name, settings_at(settings, depth))
    check_whole(made, settings)
    return made


def _masking(piece: Piece, depth: float) -> Masking:
    own = _made(masks.get, piece.name, piece.settings, depth)
    if not piece.tasks:
        return own
    each = {
        task: _made(masks.get, piece.name, {**piece.settings, **settings}, depth)
        for task, settings in sorted(piece.tasks.items())
    }
    return PerTask(own, tuple(each.items()))


def _weighting(piece: Piece, depth: float) -> Weighting:
    if piece.tasks:
        raise BadValue("a weighting has no settings for single tasks", got=", ".join(piece.tasks))
    return _made(weights.get, piece.name, piece.settings, depth)


def check_names(given: Iterable[str], tasks: Iterable[str], what: str = "a weight") -> None:
    """Raise UnknownName for something said of a task that is not there."""
    known = list(tasks)
    for name in given:
        if name not in known:
            close = nearest(name, known)
            raise UnknownName(
                f"{what} for {name!r}, which is none of the tasks",
                expected=", ".join(known),
                remedy=f"did you mean {close!r}?" if close else "name a task",
            )


def _spelled(made: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    gradients = {name: value for name, value in given.items() if isinstance(value, list)}
    return {**dataclasses.asdict(made), **gradients}


def _piece(piece: Piece | None, made: Settings | None) -> Piece | None:
    if piece is None or made is None:
        return None
    if not isinstance(made, PerTask):
        return Piece(piece.name, _spelled(made, piece.settings))
    each = {
        task: _spelled(mask, {**piece.settings, **piece.tasks[task]}) for task, mask in made.each
    }
    return Piece(piece.name, _spelled(made.own, piece.settings), each)


def at_rule(number: int, error: DeltakitError) -> DeltakitError:
    """Return an error with the rule it is about, numbered from 1; 0 is the recipe's own."""
    return error.at(f"rule {number}") if number else error
