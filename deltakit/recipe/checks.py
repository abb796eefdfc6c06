"""What a recipe is refused for: tasks, weights and numbers that mean nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltakit.dtypes import parse_dtype
from deltakit.errors import BadValue
from deltakit.recipe.slice import check_base_name
from deltakit.recipe.task import Task
from deltakit.strategies import Method, Strategy
from deltakit.vocabulary import BASE, check_template, check_token_rows

if TYPE_CHECKING:
    from deltakit.recipe.recipe import Recipe

MOST_MULTIPLE = 1 << 20


def check_tasks(strategy: Strategy, called: str, tasks: Sequence[Task]) -> None:
    """Raise BadValue unless each task has its own name, and the strategy takes that many."""
    if not tasks:
        raise BadValue("a recipe without tasks", remedy="name at least one task or model")
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadValue(
            f"two tasks are called {twice[0]!r}",
            remedy=f"give each a name of its own: {twice[0]}-1=PATH {twice[0]}-2=PATH",
        )
    if strategy.most is not None and len(names) > strategy.most:
        raise BadValue(
            f"{called} merges at most {strategy.most} tasks",
            got=f"{len(names)}: {', '.join(names)}",
            remedy="name fewer, or choose another: deltakit strategies",
        )
    strategy.check_tasks(names)


def check_weights(method: Method, called: str, weights: Sequence[float]) -> None:
    """Raise BadValue for weights that the method has no use or no meaning for."""
    if method.weighting is not None and any(weight != 1.0 for weight in weights):
        raise BadValue("weights are given and are to be found", remedy="leave out one or the other")
    if not method.strategy.weighted and any(weight != 1.0 for weight in weights):
        raise BadValue(f"{called} takes no weights", remedy="drop --weights; see its settings")
    for weight in weights:
        check_finite(weight)
    method.strategy.check_weights(weights)


def check_finite(value: float) -> None:
    if not math.isfinite(value):
        raise BadValue("a weight or a scale is not a finite number", got=f"{value}")


def check_output(seed: int, max_shard_size: int) -> None:
    """Raise BadValue for a seed or a shard size outside what is allowed."""
    if not 0 <= seed < 1 << 63:
        raise BadValue("the seed is not an integer from 0 to 2^63 - 1", got=f"{seed}")
    if max_shard_size < 1:
        raise BadValue("the largest shard size is not above 0", got=f"{max_shard_size}")


def spelled_dtype(dtype: str | None) -> str | None:
    """Return the output's dtype as safetensors spells it; UnknownName for none of them."""
    return None if dtype is None else parse_dtype(dtype)


def accumulated(dtype: str | None) -> str | None:
    """Return the dtype that deltas are summed in, as a recipe keeps it: None for float32."""
    found = spelled_dtype(dtype)
    if found not in (None, "F32", "F64"):
        raise BadValue(
            "deltas are summed in float32 or in float64",
            where="accumulate",
            got=f"{dtype!r}",
            remedy="float64, or leave it out",
        )
    return None if found == "F32" else found


def check_tokens(recipe: Recipe) -> None:
    """Raise BadValue for what is said of the output's tokens and means nothing."""
    if recipe.chat_template is not None:
        check_template(recipe.chat_template)
    multiple = recipe.pad_to_multiple_of
    if multiple is not None and not 1 <= multiple <= MOST_MULTIPLE:
        raise BadValue(
            "pad_to_multiple_of is no number of rows",
            expected=f"1 to {MOST_MULTIPLE}",
            got=f"{multiple}",
        )
    check_token_rows(recipe.tokens, [task.name for task in recipe.tasks])
    if any(row.source == BASE for row in recipe.tokens.values()):
        check_base_name(recipe.tasks, recipe.base, "a token has the row of base")
    for key in ("pad_to_multiple_of", "tokens"):
        if recipe.tokenizer is None and getattr(recipe, key):
            raise BadValue(
                f"{key} goes with a tokenizer, and none is named",
                remedy="add tokenizer: base, or union",
            )
