"""What a configuration says of the output's tokens, in a recipe's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltakit.errors import BadFile, nearest
from deltakit.mergekit.config import Config, ModelToken, TokenEmbedding, ZeroEmbedding
from deltakit.mergekit.layout import Layout
from deltakit.mergekit.models import path_of
from deltakit.recipe import BASE, TokenRow
from deltakit.recipe.keys import convert


def tokenizer(config: Config, found: Layout, notes: list[str]) -> str | None:
    """Return whose tokens the output has."""
    source = config.tokenizer_source if config.tokenizer is None else config.tokenizer.source
    if source not in (None, "base", "union"):
        source = path_of(source, "tokenizer_source")
    if source is None or not found.slices:
        return source
    if source not in ("base", "union", found.base):
        raise BadFile(
            "tokenizer_source: stacked layers have the tokenizer of their base",
            expected=f"base_model: {source}, or no tokenizer_source",
        )
    notes.append(
        f"tokenizer_source: {source}: the tokenizer of stacked layers is the base's, and a model"
        " whose tokens contradict it is refused"
    )
    return None


def multiple(config: Config, tokenizer: str | None, notes: list[str]) -> int | None:
    """Return what the number of rows is to be a multiple of."""
    found = config.tokenizer.pad_to_multiple_of if config.tokenizer else None
    if found is None:
        return None
    if tokenizer is None:
        raise BadFile(
            "tokenizer: pad_to_multiple_of: rows of stacked layers are the base's",
            remedy="stack first, and merge the stacked model with it",
        )
    notes.append(
        "pad_to_multiple_of: the base's padding is kept and rounded up; mergekit pads the tokens"
    )
    return found


def rows(config: Config, found: Layout, tokenizer: str | None) -> dict[str, TokenRow]:
    """Return whose row each token has that the configuration names."""
    named = config.tokenizer.tokens if config.tokenizer else None
    if not named:
        return {}
    if tokenizer is None:
        raise BadFile(
            "tokenizer: tokens: rows of stacked layers are the base's",
            remedy="stack first, and merge the stacked model with them",
        )
    names = {path: name for name, path in found.tasks.items()} | {found.base: BASE}
    made = {}
    for token, said in named.items():
        try:
            made[token] = _row(said, names)
        except BadFile as error:
            raise error.at(f"tokenizer: tokens: {token}") from None
    return made


def _row(said: TokenEmbedding, names: Mapping[str, str]) -> TokenRow:
    if said.source is None:
        raise BadFile(
            "a token's row without its source",
            expected="a model, {kind: model_token, ..} or {kind: zero}",
        )
    if not isinstance(said.source, dict) or "kind" not in said.source:
        return TokenRow(source=_name(said.source, names), force=said.force)
    kind = said.source["kind"]
    if kind == "zero":
        convert(said.source, ZeroEmbedding)
        return TokenRow(zero=True, force=said.force)
    if kind != "model_token":
        close = nearest(f"{kind}", ("zero", "model_token"))
        raise BadFile(
            "a token's source is of another kind",
            expected="model_token or zero",
            got=f"{kind}"[:40],
            remedy=f"did you mean {close!r}?" if close else None,
        )
    there: ModelToken = convert(said.source, ModelToken)
    if (there.token is None) == (there.token_id is None):
        raise BadFile("model_token: exactly one of token and token_id is to be there")
    like = there.token_id if there.token is None else there.token
    return TokenRow(source=_name(there.model, names), like=like, force=said.force)


def _name(model: Any, names: Mapping[str, str]) -> str:
    """Return what a recipe calls a model."""
    path = path_of(model, "source")
    if path not in names:
        raise BadFile(
            "a token's row is that of a model that is not merged",
            expected=", ".join(names),
            got=path,
            remedy="name it among the models, with weight 0 where the method has weights",
        )
    return names[path]
