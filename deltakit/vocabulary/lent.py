"""Lent: a row that stands for a token's in models that lack it, or in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.errors import BadValue, UnknownName, nearest
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary.members import Member
from deltakit.vocabulary.token_row import BASE, TokenRow
from deltakit.vocabulary.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Lent:
    """A row of some model, or of zeros."""

    source: TensorSource | None  # None: zeros
    row: int
    force: bool

    def block(self, name: str, start: int, stop: int, width: int, dtype: torch.dtype) -> Tensor:
        """Return entries start..stop of the row, of `width` entries, of a tensor."""
        import torch

        if self.source is None:
            return torch.zeros(stop - start, dtype=dtype)
        raw = torch.empty((stop - start) * 8, dtype=torch.uint8)
        at = self.row * width
        return self.source.block(name, at + start, at + stop, raw).to(dtype)


def lent_rows(
    rows: Mapping[str, TokenRow],
    output: tuple[Tokenizer, int],
    base: tuple[TensorSource, Tokenizer],
    base_rows: int,
    members: Sequence[Member],
    tensors: Sequence[str],
) -> dict[int, Lent]:
    """Return what is lent for each row of the output that a recipe names, by its number.

    `output` is its tokenizer and its rows. Raises UnknownName for a token that its source lacks,
    BadValue for a source that is no model or has no such row in one of the tensors.
    """
    found: dict[int, Lent] = {}
    for token, row in rows.items():
        where = f"tokens, {token!r}"
        here = output[0].ids[token]
        if here >= output[1]:
            raise BadValue(
                "a token has no row in the output",
                where=where,
                expected=f"an id below {output[1]}, as many rows as there are",
                got=f"{here}",
                remedy="pad_to_multiple_of makes more rows",
            )
        if row.source is None:
            found[here] = Lent(None, 0, row.force)
            continue
        source: TensorSource | None
        if row.source == BASE:
            (source, tokenizer), least = base, base_rows
        else:
            member = next(each for each in members if each.name == row.source)
            source, tokenizer = member.model, member.tokenizer
            least = min(member.rows[tensor] for tensor in tensors)
        if source is None:
            raise BadValue(
                f"the task {row.source!r} is a delta to the base, and has no rows of its own",
                where=where,
                expected="a source that is a model folder, or base",
            )
        number = _number(tokenizer, token if row.like is None else row.like, where)
        if not 0 <= number < least:
            raise BadValue(
                f"{row.source} has no row {number}",
                where=where,
                expected=f"0 to {least - 1}, in each of {', '.join(tensors)}",
            )
        found[here] = Lent(source, number, row.force)
    return found


def _number(tokenizer: Tokenizer, like: str | int, where: str) -> int:
    """Return the row of a token or an id."""
    if isinstance(like, int):
        return like
    if like not in tokenizer.ids:
        close = nearest(like, list(tokenizer.ids))
        raise UnknownName(
            f"the source of a token's row does not have the token {like!r}",
            where=f"{where}, {tokenizer.label}",
            remedy=f"did you mean {close!r}? Name one of its tokens, or an id, as like"
            if close
            else "name one of its tokens, or an id, as like",
        )
    return tokenizer.ids[like]
