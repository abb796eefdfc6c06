"""Recipe: what is merged, and how; round-trips through its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile, BadValue, DeltakitError
from deltakit.recipe import checks
from deltakit.recipe.gradient import Number, at, check_gradient
from deltakit.recipe.keys import convert
from deltakit.recipe.pattern import Pattern, matcher
from deltakit.recipe.piece import Piece
from deltakit.recipe.rule import Rule, at_rule, check_names
from deltakit.recipe.slice import Slice
from deltakit.recipe.stacking import check_stacking
from deltakit.recipe.task import Task
from deltakit.recipe.text import read_data, to_json, write_data
from deltakit.strategies import Method, is_own_file
from deltakit.tensors.files import LOCAL, Files
from deltakit.vocabulary import TokenRow

FORMAT = 1
DEFAULT_SHARD_SIZE = 5_000_000_000


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is merged, and how.

    >>> from deltakit.recipe.text import parse
    >>> recipe = Recipe(base="base", tasks=[Task("a", "ft-a"), Task("b", "ft-b")], strategy="ties")
    >>> Recipe.of(parse(recipe.encode())) == recipe
    True

    `settings` are the strategy's, `scale` multiplies the merged delta once at the end, `seed`
    drives every random mask, `dtype` is the output's, None for the base's;
    `accumulate` "F64" takes and sums all deltas in float64, None in float32 (float64 parameters
    always in float64); the result is rounded once.
    A `strategy` FILE.py:Class is code of one's own, whose blake3 is kept in `strategy_digest`.
    `mask` thins the deltas before the strategy, `weighting` finds the weights from the deltas
    instead of the tasks', `lines` (a, b) multiplies the merged delta by a + b depth. `rules` say
    otherwise for some tensors, the first that matches counting; tensors that match `heads` are not
    merged, but written beside the result, a file for each task. A number may be a list: a gradient
    over depth. A base or path left out is the store's. `tokenizer` ("base", "union" or the path of
    one) matches the rows of embeddings by token, whose number `pad_to_multiple_of` rounds up;
    `tokens` says whose row single tokens have;
    `chat_template` is the output's ("auto", a name or the template). `slices` stack layers into
    another model; one that only takes layers as they are has no strategy, and may have no tasks;
    `models` (name: path) are no tasks, and have layers that slices name.
    """

    format: int = FORMAT
    base: str = ""
    tasks: list[Task] = []
    strategy: str = ""
    settings: dict[str, Any] = {}
    mask: Piece | None = None
    weighting: Piece | None = None
    lines: tuple[float, float] | None = None
    scale: Number = 1.0
    rules: list[Rule] = []
    heads: list[Pattern] = []
    slices: list[Slice] = []
    models: dict[str, str] = {}
    seed: int = 0
    dtype: str | None = None
    accumulate: str | None = None
    tokenizer: str | None = None
    tokens: dict[str, TokenRow] = {}
    pad_to_multiple_of: int | None = None
    chat_template: str | None = None
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

    @property
    def merges(self) -> bool:
        """Whether anything is merged, and not only layers taken as they are."""
        return not self.slices or any(part.take is None for part in self.slices)

    def methods(self) -> list[Method]:
        """Return the method of the recipe and of each rule, as in the first layer, checked."""
        own = self.own
        if not self.merges:
            return []
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
        check_stacking(self)
        own, rules = self.own, []
        for number, rule in enumerate((own, *self.rules)):
            try:
                rules.append(self._checked(rule.over(own) if self.merges else rule))
            except DeltakitError as error:
                raise at_rule(number, error) from None
        own, *rules = rules
        for pattern in self.heads:
            matcher(pattern)
        checks.check_output(self.seed, self.max_shard_size)
        checks.check_tokens(self)
        return msgspec.structs.replace(
            self,
            settings=own.settings,
            strategy_digest=own.strategy_digest,
            mask=own.mask,
            weighting=own.weighting,
            rules=rules,
            dtype=checks.spelled_dtype(self.dtype),
            accumulate=checks.accumulated(self.accumulate),
        )

    def _checked(self, rule: Rule) -> Rule:
        """Return a complete rule spelled out, or raise BadValue for one that means nothing."""
        matcher(rule.match)
        if rule.factor is not None:
            check_gradient("factor", rule.factor)
            checks.check_finite(at(rule.factor, 0.0))
        if rule.exclude or not self.merges:
            return rule
        names = [task.name for task in self.tasks]
        check_names(rule.weights, names)
        check_names(rule.mask.tasks if rule.mask else (), names, "settings of a mask")
        for name, value in (*rule.weights.items(), ("scale", rule.scale)):
            check_gradient(name, value)
        for value in rule.lines or ():
            checks.check_finite(value)
        for depth in (0.0, 1.0):
            method = rule.method(depth)
            checks.check_tasks(method.strategy, f"{rule.strategy}", self.tasks)
            given = [at(rule.weights[task.name], depth) for task in self.tasks]
            checks.check_weights(method, f"{rule.strategy}", given)
            checks.check_finite(at(rule.scale, depth))
        return rule.spelled()

    def encode(self) -> bytes:
        """Return the recipe as JSON, the same bytes for equal recipes."""
        return to_json(self)

    @classmethod
    def of(cls, data: Any) -> Recipe:
        """Return the recipe that plain data stands for; unknown keys are refused."""
        if not isinstance(data, dict):
            raise BadFile("not a recipe: it is no mapping of keys to values")
        version = data.get("format", FORMAT)
        if isinstance(version, int) and version > FORMAT:
            raise BadFile(
                "the recipe was written by a newer deltakit",
                expected=f"format {FORMAT}",
                got=f"format {version}",
                remedy="upgrade deltakit",
            )
        found: Recipe = convert(data, cls)
        return found

    @classmethod
    def read(cls, path: str | Path, files: Files = LOCAL) -> Recipe:
        """Return the recipe of a JSON or YAML file.

        Raises BadFile, with the path and the line or key, for what is no recipe.
        """
        data = read_data(path, files)
        try:
            return cls.of(data)
        except BadFile as error:
            raise error.at(str(path)) from None

    def write(self, path: str | Path, files: Files = LOCAL) -> None:
        """Write the recipe as YAML or JSON, as the name of the file says."""
        write_data(self, path, files)
