"""TokenRow: whose row one token has, where the rows that models have of it do not decide it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from deltakit.errors import BadValue, UnknownName, nearest

BASE = "base"  # what a source calls the base
_MOST = 10_000  # tokens that are named; the largest sets of special tokens in use have a thousand


class TokenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The row of one token: that of a source, or of zeros, in all models or where it is missing.

    >>> TokenRow(source="chat", force=True)
    TokenRow(source='chat', like=None, zero=False, force=True)

    source: "base" or a task that is a model. like: another of its tokens, or an id, whose row it
    is; by default the token's own. `zero` in place of a source: a row of zeros. A model that has
    the token keeps its row, and one that lacks it has this. With `force` all have this: a row
    without deltas.
    """

    source: str | None = None
    like: str | int | None = None
    zero: bool = False
    force: bool = False


def check_token_rows(rows: Mapping[str, TokenRow], names: Collection[str]) -> None:
    """Raise BadValue for a row that means nothing, UnknownName for a source that is not there."""
    if len(rows) > _MOST:
        raise BadValue("tokens names too many", expected=f"at most {_MOST}", got=f"{len(rows)}")
    known = list(dict.fromkeys([BASE, *names]))
    for token, row in rows.items():
        where = f"tokens, {token!r}"
        if not token:
            raise BadValue("an empty text is no token", where="tokens")
        if (row.source is None) != row.zero:
            raise BadValue(
                "a token's row is that of a source, or of zeros",
                where=where,
                expected="source, or zero: true",
                got="both" if row.zero else "neither",
            )
        if row.zero and row.like is not None:
            raise BadValue("a row of zeros is like no other", where=where, remedy="leave like out")
        if row.source is not None and row.source not in known:
            close = nearest(row.source, known)
            raise UnknownName(
                f"a token's row is to be that of {row.source!r}, which is none of the models",
                where=where,
                expected=", ".join(known),
                remedy=f"did you mean {close!r}?" if close else "name a task, or base",
            )
