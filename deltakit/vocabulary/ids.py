"""Tokens and their ids while a tokenizer is read: each token has one, and each is one token's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deltakit.errors import BadFile

MOST_TOKENS = 1 << 24  # the largest vocabulary in use has a million


class Ids:
    """The ids of tokens, in the order in which they were first told.

    >>> ids = Ids()
    >>> ids.take([("a", 0), ("b", 1), ("a", 0)], "vocab.json")
    >>> ids.of
    {'a': 0, 'b': 1}
    """

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self._tokens: dict[int, str] = {}

    def take(self, pairs: Iterable[tuple[Any, Any]], where: str) -> None:
        """Add tokens and their ids; raise BadFile for what cannot be one."""
        ids, tokens = self.of, self._tokens
        for token, number in pairs:
            if type(token) is not str or type(number) is not int or not 0 <= number < MOST_TOKENS:
                raise BadFile(
                    "a token's id is not a row of an embedding",
                    where=where,
                    expected=f"a text, and an integer from 0 to {MOST_TOKENS - 1}",
                    got=f"{token!r}: {number!r}"[:80],
                )
            if ids.setdefault(token, number) != number:
                raise BadFile(
                    f"the token {token!r} has two ids",
                    where=where,
                    got=f"{ids[token]} and {number}",
                )
            if tokens.setdefault(number, token) != token:
                raise BadFile(
                    f"the id {number} is that of two tokens",
                    where=where,
                    got=f"{tokens[number]!r} and {token!r}",
                    remedy="save the tokenizer again: in transformers,"
                    " AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
                )
