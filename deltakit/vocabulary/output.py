"""The output's tokens: whose they are, how many rows they have, and the files that tell them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltakit.tensors.index import check_link, read_json
from deltakit.vocabulary.files import Replaced, copied_files, tokenizer_folder, union_files
from deltakit.vocabulary.ids import MOST_TOKENS
from deltakit.vocabulary.members import Member, no_tokenizer
from deltakit.vocabulary.tokenizer import Tokenizer
from deltakit.vocabulary.union import union


@dataclass(frozen=True)
class Output:
    """The tokenizer of a merge's output."""

    tokenizer: Tokenizer
    rows: int
    files: Replaced  # of the tokenizer: those that are not the base's
    folder: Path | None  # of a tokenizer that is not the base's


def output_tokens(
    choice: str,
    base: tuple[Path, Tokenizer, int],
    members: Sequence[Member],
    more: Iterable[str] = (),
) -> Output:
    """Return "base", "union", or what the tokenizer of a path makes, with tokens that it lacks.

    `base` is the base's folder, tokenizer and rows. Tokens of `more` that are new are added last,
    as added tokens, sorted: a recipe's keys have no order. Raises NotFound for a path without a
    tokenizer, BadValue where tokens cannot be added.
    """
    folder, ours, before = base
    if choice in ("base", "union"):
        others = [member.tokenizer for member in members] if choice == "union" else []
        found = union(ours, [*others, _added(more)])
        rows = before if found is ours else max(before, found.size)
        return Output(found, rows, union_files(folder, ours, found), None)
    own = tokenizer_folder(choice)
    given = Tokenizer.open(own)
    if given is None:
        raise no_tokenizer(str(own))
    found = union(given, [_added(more)])
    rows = max(_rows_beside(own, given), found.size)
    return Output(found, rows, {**copied_files(own), **union_files(own, given, found)}, own)


def _added(tokens: Iterable[str]) -> Tokenizer:
    """Return tokens as a tokenizer to which they were added, as transformers' add_tokens does."""
    ids = {token: number for number, token in enumerate(sorted(tokens))}
    return Tokenizer("tokens", ids, "", {token: {"normalized": True} for token in ids}, None)


def _rows_beside(folder: Path, output: Tokenizer) -> int:
    """Return the rows for a path's tokenizer: its model's, where a config.json beside it tells."""
    path = folder / "config.json"
    config = read_json(check_link(path, folder)) if path.exists() else {}
    told = config.get("vocab_size") if isinstance(config, dict) else None
    return told if type(told) is int and output.size <= told < MOST_TOKENS else output.size
