"""What a configuration says of one kind of tensor, as a rule of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deltakit.errors import BadFile, nearest
from deltakit.mergekit.config import Config, Parameters, filters, value_of
from deltakit.mergekit.layout import Layout
from deltakit.mergekit.methods import Made, Method, made, method
from deltakit.mergekit.models import path_of
from deltakit.recipe import Regex, Rule
from deltakit.recipe.gradient import at
from deltakit.strategies import layer


@dataclass(frozen=True)
class Kind:
    """Tensors that have the same parameters: in layers or not, of a part, matched by filters."""

    in_layers: bool
    part: int
    matched: frozenset[str] = frozenset()

    @property
    def order(self) -> tuple[int, bool, int, list[str]]:
        """Where its rule stands: more filters first, and layers before what has none."""
        return -len(self.matched), not self.in_layers, self.part, sorted(self.matched)


class Values:
    """The parameters of a configuration, by kind of tensor."""

    def __init__(self, config: Config, found: Layout) -> None:
        self._config, self._layout = config, found
        self._method: Method = method(config.merge_method)
        self._check_parameters()

    def kinds(self) -> dict[Kind, list[str]]:
        """Return the kinds of tensor there are, and the names of each."""
        every = sorted(
            {text for scope in self.scopes() for v in scope.values() for text in filters(v)}
        )
        found: dict[Kind, list[str]] = {}
        for name, part in self._layout.places().items():
            matched = frozenset(text for text in every if text in name)
            found.setdefault(Kind(layer(name) is not None, part, matched), []).append(name)
        return found

    def scopes(self) -> Iterable[Parameters]:
        """Yield all the parameters that are given anywhere."""
        for part in self._layout.parts:
            yield from (s.parameters for s in part.given.sources if s.parameters is not None)
            if part.given.parameters is not None:
                yield part.given.parameters
        yield from (scope for scope in self._config.shared if scope is not None)

    def own(self) -> Rule | None:
        """Return what holds of all tensors but those of a rule; None where nothing is merged."""
        merging = [i for i, part in enumerate(self._layout.parts) if not part.taken]
        return self.rule(Kind(False, merging[0]), ()) if merging else None

    def rule(self, kind: Kind, names: Sequence[str]) -> Rule | None:
        """Return the rule for a kind of tensor; None where it is taken and not multiplied."""
        if self._layout.parts[kind.part].taken:
            factor = self._factor(kind)
            if factor is None or (factor == 1.0 and not kind.matched):
                return None
            return Rule(match=self._match(kind, names), layers=self._range(kind), factor=factor)
        weights, values, by_task = self._values(kind)
        result: Made = made(self._config.merge_method, values, list(weights.values()), by_task)
        return Rule(
            match=self._match(kind, names),
            layers=self._range(kind),
            strategy=result.strategy,
            settings=result.settings,
            mask=result.mask,
            scale=_number(result.scale),
            weights={name: _number(weight) for name, weight in weights.items()},
        )

    def _factor(self, kind: Kind) -> Any:
        """Return what multiplies tensors of a kind that are taken; None for no parameter at all."""
        part = self._layout.parts[kind.part].given
        scopes = [part.sources[0].parameters, part.parameters, *self._config.shared]
        if self._config.merge_method == "passthrough":
            if not any(scope and "scale" in scope for scope in scopes):
                return None
            return _number(self._value("scale", 1.0, scopes, kind))
        if self._config.merge_method == "linear":
            weight = self._value("weight", 1.0, scopes, kind)
            normalized = self._value("normalize", True, scopes, kind) is True
            if weight == 0 or (weight != 1 and not normalized):
                raise BadFile(
                    "a slice of one source whose weight makes it other than the source",
                    got=f"weight: {weight}",
                    remedy="let the weight be 1, or stack with passthrough, and scale",
                )
        return None

    def _values(
        self, kind: Kind
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
        """Return the weight of each task, the parameters, and those that a task has of its own."""
        part = self._layout.parts[kind.part]
        shared = [part.given.parameters, *self._config.shared]
        values = {k: self._value(k, d, shared, kind) for k, d in self._method.shared.items()}
        each: dict[str, dict[str, Any]] = {}  # parameter -> task -> value
        weights: dict[str, Any] = {}
        given = {path_of(source.model, "model"): source.parameters for source in part.given.sources}
        for name, path in self._layout.tasks.items():
            if path not in part.merged:
                weights[name] = 0.0 if self._method.sums else 1.0  # of a delta of zeros
                continue
            scopes = [given.get(part.merged[path]), *shared]
            weights[name] = 1.0
            for key, default in self._method.each.items():
                found = self._value(key, default, scopes, kind, path)
                if key == "weight":
                    weights[name] = found
                else:
                    each.setdefault(key, {})[name] = found
        by_task: dict[str, dict[str, Any]] = {}
        for key, found in each.items():
            values[key] = next(iter(found.values()))  # the first task's, for those like it
            for name, value in found.items():
                if value != values[key]:
                    by_task.setdefault(name, {})[key] = value
        return weights, values, by_task

    def _value(
        self,
        key: str,
        default: Any,
        scopes: Sequence[Parameters | None],
        kind: Kind,
        whose: str = "the merge",
    ) -> Any:
        found = value_of(key, scopes, kind.matched)
        if found is None:
            found = default
        if found is None:
            raise BadFile(f"{key} is missing for {whose}")
        return found if kind.in_layers else at(found, 0.0)  # mergekit: t is 0 outside of layers

    def _range(self, kind: Kind) -> list[int] | None:
        if not kind.in_layers:
            return None
        first, stop = self._layout.ranges[kind.part]
        return [first, stop - 1]

    def _match(self, kind: Kind, names: Sequence[str]) -> Any:
        if not kind.in_layers and names and len(self._layout.parts) > 1:
            return sorted(names)  # before the layers the first slice counts, after them the last
        return _containing(sorted(kind.matched)) if kind.matched else "*"

    def _check_parameters(self) -> None:
        known = {*self._method.shared, *self._method.each}
        for key in {key for scope in self.scopes() for key in scope}:
            if key not in known:
                close = nearest(key, known)
                raise BadFile(
                    f"parameters: {self._config.merge_method} has no {key!r}",
                    expected=", ".join(sorted(known)) or "none",
                    remedy=f"did you mean {close!r}?" if close else "take it out",
                )


def _containing(texts: Sequence[str]) -> Any:
    """Return a pattern for names in which all of some texts are."""
    if len(texts) == 1 and not set(texts[0]) & set("*?[]{}"):
        return f"*{texts[0]}*"
    return Regex("".join(f"(?=.*{re.escape(text)})" for text in texts) + ".*")


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [float(entry) for entry in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadFile("a number is expected", got=f"{value}"[:80])
    return float(value)
