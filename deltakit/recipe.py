"""Recipe: everything a merge depends on; equal recipes over equal inputs give equal bytes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile, BadValue
from deltakit.strategies import (
    Method,
    Settings,
    Strategy,
    file_of,
    get,
    is_own_file,
    masks,
    weights,
)
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


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mask or an automatic weighting: its name and its settings.

    >>> Piece.parse("importance:density=0.1,by=map")
    Piece(name='importance', settings={'density': '0.1', 'by': 'map'})
    """

    name: str
    settings: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str) -> Piece:
        """Return the piece a user wrote as NAME or NAME:KEY=VALUE,..."""
        name, colon, rest = text.partition(":")
        settings = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise BadValue(
                    "settings are not written as KEY=VALUE", expected="NAME:KEY=VALUE,...", got=text
                )
            settings[key.strip()] = value.strip()
        return cls(name, settings)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is merged, and how.

    >>> recipe = Recipe(base="base", tasks=[Task("a", "ft-a"), Task("b", "ft-b")], strategy="ties")
    >>> Recipe.decode(recipe.encode()) == recipe
    True

    `settings` are the strategy's, `scale` multiplies the merged delta once at the end, `seed`
    drives every random mask, `dtype` (a safetensors name) is the output's, None for the base's.
    A `strategy` FILE.py:Class is code of one's own, whose blake3 is kept in `strategy_digest`.
    `mask` thins the deltas before the strategy, `weighting` finds the weights from the deltas
    instead of the tasks', `lines` (a, b) multiplies the merged delta by a + b depth.
    """

    format: int = FORMAT
    base: str
    tasks: list[Task]
    strategy: str
    settings: dict[str, Any] = {}
    mask: Piece | None = None
    weighting: Piece | None = None
    lines: tuple[float, float] | None = None
    scale: float = 1.0
    seed: int = 0
    dtype: str | None = None
    max_shard_size: int = DEFAULT_SHARD_SIZE
    base_fingerprint: str | None = None
    strategy_digest: str | None = None

    def make_strategy(self) -> Strategy:
        """Return the strategy with its settings, checked."""
        return get(self.strategy, self.settings)

    def make_method(self) -> Method:
        """Return the strategy with the mask, weighting and scale by depth around it, checked."""
        return Method(
            self.make_strategy(),
            None if self.mask is None else masks.get(self.mask.name, self.mask.settings),
            None
            if self.weighting is None
            else weights.get(self.weighting.name, self.weighting.settings),
            self.lines,
        )

    def checked(self) -> Recipe:
        """Return the recipe with all settings spelled out, or raise BadValue."""
        method = self.make_method()
        strategy = method.strategy
        if not self.tasks:
            raise BadValue("a recipe without tasks", remedy="name at least one task or model")
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadValue(
                f"two tasks are called {twice[0]!r}",
                remedy=f"give each a name of its own: {twice[0]}-1=PATH {twice[0]}-2=PATH",
            )
        if strategy.most is not None and len(names) > strategy.most:
            raise BadValue(
                f"{self.strategy} merges at most {strategy.most} tasks",
                got=f"{len(names)}: {', '.join(names)}",
                remedy="name fewer, or choose another: deltakit strategies",
            )
        strategy.check_tasks(names)
        given = [task.weight for task in self.tasks]
        if self.weighting is not None and any(weight != 1.0 for weight in given):
            raise BadValue(
                "weights are given and are to be found", remedy="leave out one or the other"
            )
        if not strategy.weighted and any(weight != 1.0 for weight in given):
            raise BadValue(
                f"{self.strategy} takes no weights", remedy="drop --weights; see its settings"
            )
        for value in (*given, self.scale, *(self.lines or ())):
            if not math.isfinite(value):
                raise BadValue("a weight or a scale is not a finite number", got=f"{value}")
        strategy.check_weights(given)
        if not 0 <= self.seed < 1 << 63:
            raise BadValue("the seed is not an integer from 0 to 2^63 - 1", got=f"{self.seed}")
        if self.dtype is not None and parse_dtype(self.dtype) != self.dtype:
            raise BadValue(f"dtype {self.dtype!r} is not spelled as safetensors does")
        if self.max_shard_size < 1:
            raise BadValue("the largest shard size is not above 0", got=f"{self.max_shard_size}")
        return msgspec.structs.replace(
            self,
            settings=dataclasses.asdict(strategy),
            strategy_digest=self._digest(),
            mask=_spelled(self.mask, method.mask),
            weighting=_spelled(self.weighting, method.weighting),
        )

    def _digest(self) -> str | None:
        """Return the digest of the strategy's own file; BadValue where the recipe's is another."""
        if not is_own_file(self.strategy):
            return None
        from blake3 import blake3

        path = file_of(self.strategy)
        found = blake3(path.read_bytes()).hexdigest()
        if self.strategy_digest not in (None, found):
            raise BadValue(
                "the strategy's file is not the one the recipe was made with",
                where=str(path),
                expected=f"blake3 {self.strategy_digest}",
                got=f"blake3 {found}",
                remedy="bring that file back, or take strategy_digest out of the recipe",
            )
        return found

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


def _spelled(piece: Piece | None, made: Settings | None) -> Piece | None:
    """Return a piece with all its settings spelled out."""
    if piece is None or made is None:
        return None
    return Piece(piece.name, dataclasses.asdict(made))
