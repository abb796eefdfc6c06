"""Recipe: what is merged, and how; round-trips through its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile, BadValue, DeltakitError
from deltakit.recipe.checks import check_finite, check_output, check_tasks, check_weights
from deltakit.recipe.gradient import Number, at, check_gradient
from deltakit.recipe.pattern import Pattern, matcher
from deltakit.recipe.piece import Piece
from deltakit.recipe.rule import Rule, at_rule, check_names
from deltakit.recipe.task import Task
from deltakit.strategies import Method, is_own_file
from deltakit.tensors.files import LOCAL, Files, read_whole

FORMAT = 1
DEFAULT_SHARD_SIZE = 5_000_000_000


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is merged, and how.

    >>> recipe = Recipe(base="base", tasks=[Task("a", "ft-a"), Task("b", "ft-b")], strategy="ties")
    >>> Recipe.decode(recipe.encode()) == recipe
    True

    `settings` are the strategy's, `scale` multiplies the merged delta once at the end, `seed`
    drives every random mask, `dtype` (a safetensors name) is the output's, None for the base's.
    A `strategy` FILE.py:Class is code of one's own, whose blake3 is kept in `strategy_digest`.
    `mask` thins the deltas before the strategy, `weighting` finds the weights from the deltas
    instead of the tasks', `lines` (a, b) multiplies the merged delta by a + b depth. `rules` say
    otherwise for some tensors, the first that matches counting; tensors that match `heads` are not
    merged, but written beside the result, a file for each task. A number may be a list: a gradient
    over depth. A base or path left out is the store's. `tokenizer` ("base", "union" or the path
    of one) matches the rows of embeddings by token.
    """

    format: int = FORMAT
    base: str = ""
    tasks: list[Task]
    strategy: str
    settings: dict[str, Any] = {}
    mask: Piece | None = None
    weighting: Piece | None = None
    lines: tuple[float, float] | None = None
    scale: Number = 1.0
    rules: list[Rule] = []
    heads: list[Pattern] = []
    seed: int = 0
    dtype: str | None = None
    tokenizer: str | None = None
    max_shard_size: int = DEFAULT_SHARD_SIZE
    base_fingerprint: str | None = None
    strategy_digest: str | None = None

    @property
    def own(self) -> Rule:
        """What the recipe says of all tensors, as a rule."""
        return Rule(
            strategy=self.strategy,
            settings=self.settings,
            mask=self.mask,
            weighting=self.weighting,
            lines=self.lines,
            scale=self.scale,
            weights={task.name: task.weight for task in self.tasks},
            strategy_digest=self.strategy_digest,
        )

    def methods(self) -> list[Method]:
        """Return the method of the recipe and of each rule, as in the first layer, checked."""
        own = self.own
        return [r.over(own).method(0.0) for r in (own, *self.rules) if not r.exclude]

    def refuse_code(self) -> None:
        """Raise BadValue where a strategy, mask or weighting is code in a file of its own."""
        for rule in (self.own, *self.rules):
            pieces = [piece.name for piece in (rule.mask, rule.weighting) if piece]
            for name in (rule.strategy, *pieces):
                if name is not None and is_own_file(name):
                    raise BadValue(
                        "the recipe runs code of its own",
                        where=name,
                        remedy="read that file, then pass --allow-code",
                    )

    def checked(self) -> Recipe:
        """Return the recipe with all settings spelled out, or raise BadValue."""
        own, rules = self.own, []
        for number, rule in enumerate((own, *self.rules)):
            try:
                rules.append(self._checked(rule.over(own)))
            except DeltakitError as error:
                raise at_rule(number, error) from None
        own, *rules = rules
        for pattern in self.heads:
            matcher(pattern)
        check_output(self.seed, self.dtype, self.max_shard_size)
        return msgspec.structs.replace(
            self,
            settings=own.settings,
            strategy_digest=own.strategy_digest,
            mask=own.mask,
            weighting=own.weighting,
            rules=rules,
        )

    def _checked(self, rule: Rule) -> Rule:
        """Return a complete rule spelled out, or raise BadValue for one that means nothing."""
        matcher(rule.match)
        if rule.exclude:
            return rule
        check_names(rule.weights, [task.name for task in self.tasks])
        for name, value in (*rule.weights.items(), ("scale", rule.scale)):
            check_gradient(name, value)
        for value in rule.lines or ():
            check_finite(value)
        for depth in (0.0, 1.0):
            method = rule.method(depth)
            check_tasks(method.strategy, f"{rule.strategy}", self.tasks)
            given = [at(rule.weights[task.name], depth) for task in self.tasks]
            check_weights(method, f"{rule.strategy}", given)
            check_finite(at(rule.scale, depth))
        return rule.spelled()

    def encode(self) -> bytes:
        """Return the recipe as JSON, the same bytes for equal recipes."""
        raw = msgspec.json.encode(self, order="sorted")
        return msgspec.json.format(raw, indent=2) + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> Recipe:
        """Return the recipe a JSON text holds; unknown keys are refused."""
        try:
            found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            version = msgspec.json.decode(found.get("format", b"1"), type=int)
            if version > FORMAT:
                raise BadFile(
                    "the recipe was written by a newer deltakit",
                    expected=f"format {FORMAT}",
                    got=f"format {version}",
                    remedy="upgrade deltakit",
                )
            return msgspec.json.decode(raw, type=cls)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadFile(f"not a recipe: {error}") from None

    @classmethod
    def read(cls, path: str | Path, files: Files = LOCAL) -> Recipe:
        """Return the recipe of a JSON file."""
        try:
            return cls.decode(read_whole(Path(path), files, most=10_000_000))
        except BadFile as error:
            raise error.at(str(path)) from None
