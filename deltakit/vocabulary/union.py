"""The union of tokenizers: the base's, with the tokens that only others have added to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from deltakit.errors import BadFile, BadValue, some
from deltakit.vocabulary.tokenizer import Tokenizer

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_REMEDY = "keep the base's: --tokenizer base; or take another's: --tokenizer PATH"


def union(base: Tokenizer, others: Sequence[Tokenizer]) -> Tokenizer:
    """Return a tokenizer of every token once: the base's ids stay, new tokens follow in order.

    Order: that of the models, and in each that of its ids. A token added to a tokenizer is added
    to the base's with what is said of it; one of a tokenizer's model goes into the base's model,
    with its merges (BPE) or its score (Unigram). Raises BadValue where a model of another kind has
    tokens of its own, and where the base has no tokenizer.json to add to.
    """
    ids = dict(base.ids)
    added = dict(base.added)
    number = base.size
    for other in others:
        for token in sorted(other.ids, key=other.ids.__getitem__):
            if token in ids:
                continue
            ids[token] = number
            number += 1
            if token in other.added:
                added[token] = other.added[token]
            else:
                _check_kind(base, other, token)
    if len(ids) == len(base.ids):
        return base
    if base.table is None:
        raise BadValue(
            "tokens cannot be added to a tokenizer without a tokenizer.json",
            where=base.label,
            got=f"{len(ids) - len(base.ids)} tokens to add, as {some(set(ids) - set(base.ids), 2)}",
            remedy="write one: in transformers,"
            " AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    table = _table(base, others, ids, added)
    return Tokenizer(base.label, ids, base.kind, added, table)


def tokenizer_json(table: Mapping[str, Any]) -> bytes:
    """Return a tokenizer.json as the library writes it."""
    return msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n"


def added_entry(entry: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return what a file says of an added token, whatever the file it was read from."""
    return {"content": token, **{flag: bool(entry.get(flag, False)) for flag in _FLAGS}}


def _check_kind(base: Tokenizer, other: Tokenizer, token: str) -> None:
    if other.kind != base.kind or other.table is None:
        raise BadValue(
            "tokens of one kind of tokenizer cannot be added to another kind",
            where=other.label,
            expected=f"{base.kind} with a tokenizer.json, as in {base.label}",
            got=f"{other.kind}{'' if other.table else ' without one'}, and the token {token!r}",
            remedy=_REMEDY,
        )


def _table(
    base: Tokenizer, others: Sequence[Tokenizer], ids: Mapping[str, int], added: Mapping[str, Any]
) -> dict[str, Any]:
    """Return tokenizer.json with the new tokens.

    Every token stands in the model's vocabulary, the added ones too: the library gives an added
    token that does not the next free id, whatever id the file says.
    """
    assert base.table is not None
    model = dict(base.table["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = _pieces(model["vocab"], others, ids)
    else:
        model["vocab"] = dict(ids)
    if "merges" in model:
        model["merges"] = _merges(base, others, ids)
    entries = [
        {"id": ids[token], **added_entry(entry, token)}
        for token, entry in sorted(added.items(), key=lambda item: ids[item[0]])
    ]
    return {**base.table, "added_tokens": entries, "model": model}


def _pieces(
    vocab: list[Any], others: Sequence[Tokenizer], ids: Mapping[str, int]
) -> list[list[Any]]:
    """Return pieces and scores; a piece's place is its id. An added token scores 0, as in T5."""
    scores: dict[str, Any] = {}
    for other in reversed(others):
        if other.table is not None and isinstance(other.table["model"]["vocab"], list):
            scores |= dict(other.table["model"]["vocab"])
    found = list(vocab)
    for token, number in sorted(ids.items(), key=lambda item: item[1]):
        if number < len(vocab):
            continue
        if number != len(found):
            raise BadValue(
                "tokens cannot be added to a Unigram tokenizer whose ids have a gap",
                expected=f"a token of id {len(found)}",
                got=f"none; {token!r} has {number}",
                remedy=_REMEDY,
            )
        found.append([token, scores.get(token, 0.0)])
    return found


def _merges(base: Tokenizer, others: Sequence[Tokenizer], ids: Mapping[str, int]) -> list[Any]:
    """Return the base's merges and, after them, those of others that make or use a new token."""
    assert base.table is not None
    kept = list(base.table["model"]["merges"])
    seen = set(_pairs(base))
    prefix = base.table["model"].get("continuing_subword_prefix") or ""
    fresh = []
    for other in others:
        for pair in _pairs(other):
            whole = pair[0] + pair[1].removeprefix(prefix)
            used = (*pair, whole)
            if pair in seen or all(token in base.ids for token in used):
                continue
            if all(token in ids for token in used):
                seen.add(pair)
                fresh.append(pair)
    as_text = all(isinstance(merge, str) for merge in kept)
    if as_text and not any(" " in part for pair in fresh for part in pair):
        return kept + [f"{left} {right}" for left, right in fresh]
    return [list(pair) for pair in _pairs(base)] + [list(pair) for pair in fresh]


def _pairs(tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    table = tokenizer.table or {"model": {}}
    for merge in table["model"].get("merges") or []:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
            raise BadFile(
                "a merge is not a pair of tokens",
                where=f"{tokenizer.label}, tokenizer.json",
                got=f"{merge!r}"[:80],
            )
        yield pair[0], pair[1]
