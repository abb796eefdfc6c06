"""From mergekit's configuration to a recipe, and what is to be said about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deltakit.errors import BadFile, nearest
from deltakit.mergekit.config import Config, Parameters, Slice, filters, value_of
from deltakit.mergekit.methods import Made, made, method
from deltakit.mergekit.models import holds, names_of, path_of, slices_of
from deltakit.recipe import Recipe, Regex, Rule, Task
from deltakit.recipe.gradient import at
from deltakit.recipe.keys import convert
from deltakit.strategies import depths, layer
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.dtypes import parse_dtype


@dataclass(frozen=True)
class Translated:
    """A recipe, and where it is not to the letter what mergekit would do."""

    recipe: Recipe
    notes: list[str]


def translate(data: Any) -> Translated:
    """Return the recipe that means what a mergekit configuration means.

    Opens the base's header, for its layers. Raises BadFile naming the key that has no counterpart.
    """
    config: Config = convert(data, Config)
    _refuse(config)
    return _Translation(config).result()


def _refuse(config: Config) -> None:
    """Raise BadFile for keys that are understood and cannot be done."""
    if sum(part is not None for part in (config.models, config.slices, config.modules)) != 1:
        raise BadFile("exactly one of models, slices and modules is to be there")
    if config.modules is not None:
        raise BadFile("modules: merges of single modules have no counterpart", remedy="use models")
    if config.chat_template is not None:
        raise BadFile(
            "chat_template: the template of a merged model is its base's",
            remedy="take the key out, and put chat_template.jinja into the merged folder",
        )
    if config.tokenizer is not None and (
        config.tokenizer.tokens or config.tokenizer.pad_to_multiple_of
    ):
        raise BadFile(
            "tokenizer: tokens and pad_to_multiple_of have no counterpart",
            remedy="name the source alone: base, union or a model",
        )


class _Translation:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.method = method(config.merge_method)
        self.slices = slices_of(config)
        self.base = None if config.base_model is None else path_of(config.base_model, "base_model")
        given = [path_of(source.model, "model") for source in self.slices[0].sources]
        if self.base is None and self.method.needs_base:
            raise BadFile(f"base_model is missing, which {config.merge_method} needs")
        self.notes = list(self.method.notes)
        # The delta methods take no notice of the base among the models.
        self.merged = given
        if self.method.needs_base:
            self.merged = [path for path in given if path != self.base]
            if config.merge_method == "slerp":
                self.merged = [f"{self.base}", *self.merged]
        elif self.base is not None and self.base not in given:
            raise BadFile("base_model is not among the models, and linear has no use for it")
        if len(set(self.merged)) != len(self.merged):
            raise BadFile("a model is there twice", got=", ".join(self.merged))
        self.names = names_of(self.merged)
        self.model = Checkpoint.open(self.base or given[0])
        self._check_layers()
        self._check_parameters()

    def result(self) -> Translated:
        config = self.config
        signatures = self._signatures()
        plain = (False, 0, frozenset[str]())
        own = self._rule(*plain)
        rules = [
            rule
            for signature in sorted(signatures, key=_order)
            if (rule := self._rule(*signature, match=signatures[signature])) is not None
            and (signature[2] or not _same(rule, own))
        ]
        assert own.strategy is not None
        kind = config.out_dtype or config.dtype
        if config.dtype is not None:
            self.notes.append(
                f"dtype: {config.dtype} is what mergekit computes in; here arithmetic is float32,"
                f" rounded once to {kind}"
            )
        tokenizer = config.tokenizer_source
        if config.tokenizer is not None:
            tokenizer = config.tokenizer.source
        if tokenizer not in (None, "base", "union"):
            tokenizer = path_of(tokenizer, "tokenizer_source")
        recipe = Recipe(
            base=str(self.model.path),
            tasks=[
                Task(name, path, own.weights[name])
                for name, path in zip(self.names, self.merged, strict=True)
            ],
            strategy=own.strategy,
            settings=own.settings,
            mask=own.mask or None,
            scale=1.0 if own.scale is None else own.scale,
            rules=rules,
            dtype=None if kind is None else parse_dtype(kind),
            tokenizer=tokenizer,
        )
        return Translated(recipe, self.notes)

    def _signatures(self) -> dict[tuple[bool, int, frozenset[str]], list[str]]:
        """Return the kinds of tensor there are: in layers or not, slice, filters that match."""
        every = sorted(
            {text for scope in self._scopes() for v in scope.values() for text in filters(v)}
        )
        where = depths(self.model.infos)
        found: dict[tuple[bool, int, frozenset[str]], list[str]] = {}
        for name in self.model.infos:
            number = layer(name)
            matched = frozenset(text for text in every if text in name)
            if number is not None:
                place = next(i for i, part in enumerate(self.slices) if holds(part, number))
            else:  # before the layers the first slice counts, after them the last
                place = len(self.slices) - 1 if where[name] else 0
            found.setdefault((number is not None, place, matched), []).append(name)
        return found

    def _scopes(self) -> Iterable[Parameters]:
        for part in self.slices:
            yield from (s.parameters for s in part.sources if s.parameters is not None)
            if part.parameters is not None:
                yield part.parameters
        if self.config.parameters is not None:
            yield self.config.parameters

    def _rule(
        self, in_layers: bool, place: int, matched: frozenset[str], match: Sequence[str] = ()
    ) -> Rule:
        """Return the rule for one kind of tensor, complete but for what all rules share."""
        part = self.slices[place]
        shared = [part.parameters, self.config.parameters]

        def value(key: str, default: Any, scopes: Sequence[Parameters | None], whose: str) -> Any:
            found = value_of(key, scopes, matched)
            if found is None:
                found = default
            if found is None:
                raise BadFile(f"{key} is missing for {whose}")
            return found if in_layers else at(found, 0.0)  # mergekit: t is 0 outside of layers

        values = {k: value(k, d, shared, "the merge") for k, d in self.method.shared.items()}
        each: dict[str, list[Any]] = {key: [] for key in self.method.each}
        for path in self.merged:
            own = next(
                (s.parameters for s in part.sources if path_of(s.model, "model") == path), None
            )
            for key, default in self.method.each.items():
                each[key].append(value(key, default, [own, *shared], path))
        weights = each.pop("weight", [1.0] * len(self.merged))
        for key, found in each.items():
            if any(other != found[0] for other in found[1:]):
                raise BadFile(
                    f"{key} differs from model to model, and here it is one for all",
                    got=", ".join(map(str, found)),
                    remedy=f"give one {key} in the common parameters",
                )
            values[key] = found[0]
        result = made(self.config.merge_method, values, weights)
        return self._as_rule(result, weights, in_layers, part, matched, match)

    def _as_rule(
        self,
        result: Made,
        weights: Sequence[Any],
        in_layers: bool,
        part: Slice,
        matched: frozenset[str],
        names: Sequence[str],
    ) -> Rule:
        layers = None
        if in_layers:
            first, stop = part.sources[0].layer_range or (0, self.layers)
            layers = [first, stop - 1]
        match: Any = _containing(sorted(matched)) if matched else "*"
        if not in_layers and names and len(self.slices) > 1:
            match = sorted(names)  # before the layers the first slice counts, after them the last
        given = dict(zip(self.names, map(_number, weights), strict=True))
        return Rule(
            match=match,
            layers=layers,
            strategy=result.strategy,
            settings=result.settings,
            mask=result.mask,
            scale=_number(result.scale),
            weights=given,
        )

    @property
    def layers(self) -> int:
        """How many layers the models have."""
        return 1 + max((n for n in map(layer, self.model.infos) if n is not None), default=-1)

    def _check_layers(self) -> None:
        at_layer = 0
        for part in self.slices:
            ranges = {source.layer_range or (0, self.layers) for source in part.sources}
            if len(ranges) != 1:
                raise BadFile("slices: sources of one slice of different layer_range stack layers")
            first, stop = ranges.pop()
            if first != at_layer or not first < stop <= self.layers:
                raise BadFile(
                    "slices: layers that are left out, come twice or in another order",
                    expected=f"layer_range: [{at_layer}, ..], to {self.layers} in all",
                    got=f"layer_range: [{first}, {stop}]",
                    remedy="stacked models are made by mergekit; their folders can be merged here",
                )
            at_layer = stop
        if at_layer != self.layers:
            raise BadFile(
                "slices: the last layers are left out",
                expected=f"layers to {self.layers}, as in {self.model.label}",
                got=f"to {at_layer}",
            )

    def _check_parameters(self) -> None:
        known = {*self.method.shared, *self.method.each}
        for key in {key for scope in self._scopes() for key in scope}:
            if key not in known:
                close = nearest(key, known)
                raise BadFile(
                    f"parameters: {self.config.merge_method} has no {key!r}",
                    expected=", ".join(sorted(known)) or "none",
                    remedy=f"did you mean {close!r}?" if close else "take it out",
                )
        if any(scope.get("int8_mask") for scope in self._scopes()):
            self.notes.append("int8_mask: makes no difference here, masks take no memory")


def _order(signature: tuple[bool, int, frozenset[str]]) -> tuple[int, bool, int, list[str]]:
    """Return where a rule stands: more filters first, and layers before what has none."""
    in_layers, place, matched = signature
    return -len(matched), not in_layers, place, sorted(matched)


def _same(rule: Rule, own: Rule) -> bool:
    fields = ("strategy", "settings", "mask", "scale", "weights")
    return all(getattr(rule, field) == getattr(own, field) for field in fields)


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
