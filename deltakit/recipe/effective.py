"""What a recipe means for each tensor: the rule it comes under, and how it is merged."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from deltakit.errors import BadValue, DeltakitError
from deltakit.recipe.checks import check_tasks, check_weights
from deltakit.recipe.gradient import at
from deltakit.recipe.layers import layer_range
from deltakit.recipe.layers import text as range_text
from deltakit.recipe.pattern import matcher, text
from deltakit.recipe.recipe import Recipe
from deltakit.recipe.rule import Rule, at_rule
from deltakit.strategies import Method, depths, layer


@dataclass(frozen=True)
class Effective:
    """How one tensor is merged: method, one weight a task, scale; and by which rule."""

    rule: int  # from 1; 0 for what the recipe says of all
    method: Method
    weights: tuple[float, ...]
    scale: float


class Rules:
    """The rules of a recipe over the tensors of one model.

    >>> from deltakit.recipe import Task
    >>> recipe = Recipe(base="b", tasks=[Task("a", "a")], strategy="ties",
    ...                 rules=[Rule(match="*.bias", exclude=True), Rule(match="h.*", scale=[0, 1])])
    >>> rules = Rules(recipe, ["h.0.w", "h.0.bias", "h.1.w", "out.w"])
    >>> rules.number("h.1.w"), rules.number("out.w"), rules.merges("h.0.bias")
    (2, 0, False)
    >>> rules.effective("h.0.w").scale, rules.effective("h.1.w").scale
    (0.0, 1.0)

    The first rule that matches a name counts, alone. Names that match `heads` are under none.
    Names that are `taken` are those of slices that take a model's layers as they are.
    Raises BadValue for a rule that no tensor comes under.
    """

    def __init__(self, recipe: Recipe, names: Iterable[str], taken: Container[str] = ()) -> None:
        self._names = sorted(names)
        self._recipe, self._taken = recipe, taken
        self._last = max((n for n in map(layer, self._names) if n is not None), default=0)
        self._depths = depths(self._names)
        own = recipe.own
        self._rules = [own, *(_complete(n, rule, own) for n, rule in enumerate(recipe.rules, 1))]
        self._ranges: list[tuple[int, int] | None] = []
        for number, rule in enumerate(self._rules):
            try:
                found = None if rule.layers is None else layer_range(rule.layers, self._last)
                self._ranges.append(found)
            except BadValue as error:
                raise at_rule(number, error) from None
        self._matchers = [matcher(rule.match) for rule in self._rules]
        self._is_head = matcher(recipe.heads) if recipe.heads else None
        self._known: dict[tuple[int, float], Effective] = {}
        self._check_used()

    def is_head(self, name: str) -> bool:
        """Tell whether a tensor is kept aside, a task's own."""
        return self._is_head is not None and self._is_head(name)

    def number(self, name: str) -> int:
        """Return the number of the rule that a tensor comes under, 0 for none of them."""
        return next((n for n in range(1, len(self._rules)) if self._matches(n, name)), 0)

    def merges(self, name: str) -> bool:
        """Tell whether a tensor is merged: neither taken, excluded nor kept aside."""
        if name in self._taken or self.is_head(name):
            return False
        return not self._rules[self.number(name)].exclude

    def factor(self, name: str) -> float:
        """Return what multiplies a tensor that is taken as it is."""
        number = self.number(name)
        found = self._rules[number].factor
        return 1.0 if found is None else float(at(found, self._depth(number, name)))

    def effective(self, name: str) -> Effective:
        """Return how a tensor is merged."""
        number = self.number(name)
        rule = self._rules[number]
        depth = self._depth(number, name) if rule.gradients else 0.0
        if (number, depth) not in self._known:
            try:
                self._known[number, depth] = self._made(number, rule, depth)
            except DeltakitError as error:
                raise at_rule(number, error.at(name)) from None
        return self._known[number, depth]

    def _made(self, number: int, rule: Rule, depth: float) -> Effective:
        tasks = self._recipe.tasks
        method = rule.method(depth)
        given = [float(at(rule.weights[task.name], depth)) for task in tasks]
        check_tasks(method.strategy, f"{rule.strategy}", tasks)
        check_weights(method, f"{rule.strategy}", given)
        return Effective(number, method, tuple(given), float(at(rule.scale, depth)))

    def _depth(self, number: int, name: str) -> float:
        """Return where a gradient stands: within the layers of its rule, or in the model."""
        found, here = self._ranges[number], layer(name)
        if found is None or here is None:
            return self._depths[name]
        first, last = found
        return (here - first) / (last - first) if last > first else 1.0

    def _matches(self, number: int, name: str) -> bool:
        found, here = self._ranges[number], layer(name)
        if found is not None and (here is None or not found[0] <= here <= found[1]):
            return False
        return self._matchers[number](name)

    def _check_used(self) -> None:
        used = {self.number(name) for name in self._names}
        for number, rule in enumerate(self._rules[1:], 1):
            if number in used:
                continue
            before = any(self._matches(number, name) for name in self._names)
            raise BadValue(
                "a rule that no tensor comes under",
                where=f"rule {number}: {text(rule.match)}"
                + ("" if rule.layers is None else f", layers {range_text(rule.layers)}"),
                got="rules before it take all that it matches" if before else "it matches nothing",
                remedy="put it before them: the first rule that matches counts"
                if before
                else f"names are as {self._names[0]}; * stands for any text, dots too",
            )


def _complete(number: int, rule: Rule, own: Rule) -> Rule:
    try:
        return rule.over(own)
    except BadValue as error:
        raise at_rule(number, error) from None


def groups(names: Sequence[str], rules: Rules) -> dict[int, list[str]]:
    """Return the names that come under each rule, in their order."""
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(rules.number(name), []).append(name)
    return found
