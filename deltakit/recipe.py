"""Recipe: everything a merge depends on; equal recipes over equal inputs give equal bytes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile, BadValue
from deltakit.strategies import Strategy, get
from deltakit.tensors.dtypes import parse_dtype
from deltakit.tensors.files import LOCAL, Files, read_whole

FORMAT = 1
DEFAULT_SHARD_SIZE = 5_000_000_000


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One expert of a merge: its name (which its random masks depend on), file, and weight."""

    name: str
    path: str
    weight: float = 1.0
    importance: str | None = None


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is merged, and how.

    >>> recipe = Recipe(base="base", tasks=[Task("a", "ft-a"), Task("b", "ft-b")], strategy="ties")
    >>> Recipe.decode(recipe.encode()) == recipe
    True

    `settings` are the strategy's, `scale` multiplies the merged delta once at the end, `seed`
    drives every random mask, `dtype` (a safetensors name) is the output's, None for the base's.
    """

    format: int = FORMAT
    base: str
    tasks: list[Task]
    strategy: str
    settings: dict[str, Any] = {}
    scale: float = 1.0
    seed: int = 0
    dtype: str | None = None
    max_shard_size: int = DEFAULT_SHARD_SIZE
    base_fingerprint: str | None = None

    def make_strategy(self) -> Strategy:
        """Return the strategy with its settings, checked."""
        return get(self.strategy, self.settings)

    def checked(self) -> Recipe:
        """Return the recipe with all settings spelled out, or raise BadValue."""
        strategy = self.make_strategy()
        if not self.tasks:
            raise BadValue("a recipe without tasks", remedy="name at least one task or model")
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadValue(
                f"two tasks are called {twice[0]!r}",
                remedy=f"give each a name of its own: {twice[0]}-1=PATH {twice[0]}-2=PATH",
            )
        weights = [task.weight for task in self.tasks]
        if not strategy.weighted and any(weight != 1.0 for weight in weights):
            raise BadValue(
                f"{self.strategy} takes no weights", remedy="drop --weights; see its settings"
            )
        for value in (*weights, self.scale):
            if not math.isfinite(value):
                raise BadValue("a weight or the scale is not a finite number", got=f"{value}")
        strategy.check_weights(weights)
        if not 0 <= self.seed < 1 << 63:
            raise BadValue("the seed is not an integer from 0 to 2^63 - 1", got=f"{self.seed}")
        if self.dtype is not None and parse_dtype(self.dtype) != self.dtype:
            raise BadValue(f"dtype {self.dtype!r} is not spelled as safetensors does")
        if self.max_shard_size < 1:
            raise BadValue("the largest shard size is not above 0", got=f"{self.max_shard_size}")
        settings = dataclasses.asdict(strategy)
        return msgspec.structs.replace(self, settings=settings)

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
