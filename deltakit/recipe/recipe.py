"""Recipe: what is merged, and how; round-trips through its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from deltakit.errors import BadFile
from deltakit.recipe.checks import check_finite, check_output, check_tasks, check_weights
from deltakit.recipe.code import code_digest
from deltakit.recipe.piece import Piece, spelled
from deltakit.recipe.task import Task
from deltakit.strategies import Method, Strategy, get, masks, weights
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
        check_tasks(method.strategy, self.strategy, self.tasks)
        check_weights(method, self.strategy, [task.weight for task in self.tasks])
        for value in (self.scale, *(self.lines or ())):
            check_finite(value)
        check_output(self.seed, self.dtype, self.max_shard_size)
        return msgspec.structs.replace(
            self,
            settings=dataclasses.asdict(method.strategy),
            strategy_digest=code_digest(self.strategy, self.strategy_digest),
            mask=spelled(self.mask, method.mask),
            weighting=spelled(self.weighting, method.weighting),
        )

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
