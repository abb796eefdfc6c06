"""Bringing a base and its experts into one vocabulary, chosen by --tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltakit.delta_source import DeltaSource, is_merged
from deltakit.errors import BadValue, some
from deltakit.importance import ImportanceMap
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.vocabulary.base import Donors, MatchedBase
from deltakit.vocabulary.delta import MatchedDelta
from deltakit.vocabulary.files import Replaced, config_files
from deltakit.vocabulary.lent import Lent, lent_rows
from deltakit.vocabulary.maps import matched_map
from deltakit.vocabulary.members import Member, no_tokenizer
from deltakit.vocabulary.output import output_tokens
from deltakit.vocabulary.rows import NONE, Rows
from deltakit.vocabulary.tensors import rows_of, vocabulary_tensors, with_rows
from deltakit.vocabulary.token_row import TokenRow
from deltakit.vocabulary.tokenizer import Tokenizer


@dataclass(frozen=True)
class Matched:
    """A base and its experts in the vocabulary of the output."""

    base: MatchedBase
    sources: Sequence[MatchedDelta]
    tensors: Mapping[str, Rows]  # where the rows of each vocabulary-sized tensor come from
    tokens: int
    rows: tuple[int, int]  # of the embedding, in the base and in the output
    files: Replaced  # beside the weights: those that are not the base's
    notes: Sequence[str]

    def maps(self, found: Sequence[ImportanceMap]) -> list[ImportanceMap]:
        """Return the experts' importance maps, none or one each, in this vocabulary."""
        return [matched_map(scores, expert, self.tensors) for expert, scores in enumerate(found)]

    @property
    def makes_rows(self) -> bool:
        """Whether the output has rows that the base does not."""
        return any(len(rows.made) for rows in self.tensors.values())

    @property
    def digest(self) -> str:
        """What stands for the vocabularies' content: it decides the output with the recipe."""
        from blake3 import blake3

        hasher = blake3()
        for name, rows in self.tensors.items():
            hasher.update(f"{name} {len(rows.base)} {len(rows.experts)}\n".encode())
            for found in (rows.base, *rows.experts):
                hasher.update(found.tobytes())
            for row, lent in rows.lent.items():
                hasher.update(f"{row} {lent.row} {lent.force}\n".encode())
        for name, data in self.files.items():
            hasher.update(f"{name} {None if data is None else len(data)}\n".encode())
            hasher.update(data or b"")
        return hasher.hexdigest()


def match(
    choice: str,
    base: Checkpoint,
    names: Sequence[str],
    sources: Sequence[DeltaSource],
    weights: Mapping[str, Sequence[float]],
    multiple: int | None = None,
    tokens: Mapping[str, TokenRow] | None = None,
) -> Matched:
    """Return the sources in one vocabulary: "base", "union", or the tokenizer of a path.

    Rows are matched by token. A delta's row is zero where the expert or the base lacks the token;
    what the base lacks is defined by `MatchedBase`. "base" keeps the base's rows, "union" adds what
    is missing, a path's own tokens and no others are kept. `weights` are those of each merged
    tensor, one an expert. The number of rows is rounded up to a multiple of `multiple`. `tokens`
    are in the output whatever the choice, each with the row that it names. A stored delta or an
    adapter is in the base's vocabulary. Raises BadFile for a damaged tokenizer,
    NotFound for a missing one, BadValue where there is nothing to match or the union cannot be
    made.
    """
    tensors = vocabulary_tensors(base.infos, base.config())
    if not tensors:
        raise BadValue(
            "no embedding is known in this model, so no rows can be matched by token",
            where=base.label,
            remedy="leave out --tokenizer",
        )
    for name in tensors:
        if not is_merged(base.infos[name]):
            raise BadValue(
                f"the rows of {name!r} cannot be matched by token",
                where=base.label,
                expected="a float dtype",
                got=base.infos[name].dtype,
                remedy="dequantise the checkpoint first",
            )
    ours = Tokenizer.open(base.folder)
    if ours is None:
        raise no_tokenizer(base.label)
    members = [
        Member.of(name, source, base, ours, tensors)
        for name, source in zip(names, sources, strict=True)
    ]
    before = rows_of(base.infos[tensors[0]])
    told = tokens or {}
    output = output_tokens(choice, (base.folder, ours, before), members, told)
    after = output.rows + -output.rows % (multiple or 1)
    configs, strange = config_files(base, ours, output.tokenizer, (before, after), output.folder)
    lent = lent_rows(told, (output.tokenizer, after), (base, ours), before, members, tensors)
    matched = _matched(output.tokenizer, after, ours, before, members, tensors, lent)
    infos = {name: with_rows(base.infos[name], after) for name in tensors}
    donors = Donors([member.model for member in members], weights)
    return Matched(
        MatchedBase(base, infos, matched, donors),
        [
            MatchedDelta(source, expert, member.seen(base), matched)
            for expert, (source, member) in enumerate(zip(sources, members, strict=True))
        ],
        matched,
        len(output.tokenizer.ids),
        (before, after),
        {**output.files, **configs},
        [
            *strange,
            *_notes(members, ours, output.tokenizer, matched[tensors[0]]),
            *_unused(told, [ours, *(member.tokenizer for member in members)]),
        ],
    )


def _matched(
    output: Tokenizer,
    after: int,
    ours: Tokenizer,
    before: int,
    members: Sequence[Member],
    tensors: Sequence[str],
    lent: Mapping[int, Lent],
) -> dict[str, Rows]:
    """Return where the rows of each tensor come from, once for tensors of equal rows."""
    known: dict[tuple[int, ...], Rows] = {}
    found = {}
    for tensor in tensors:
        key = tuple(member.rows[tensor] for member in members)
        if key not in known:
            experts = [(member.tokenizer, member.rows[tensor]) for member in members]
            known[key] = Rows.of(output, after, ours, before, experts, lent)
        found[tensor] = known[key]
    return found


def _notes(members: Sequence[Member], ours: Tokenizer, output: Tokenizer, rows: Rows) -> list[str]:
    """Return what does not follow from the choice: how far each vocabulary is the others'."""
    told = []
    for member in members:
        theirs = member.tokenizer
        if member.model is not None and theirs is ours:
            told.append(
                f"{member.name}: no tokenizer beside it; its tokens are taken for the base's"
            )
        if member.without_row:
            count, first = len(member.without_row), member.without_row[0]
            told.append(f"{member.name}: {count} tokens without a row in it, as {first!r}")
        more = theirs.ids.keys() - ours.ids.keys()
        parts = [
            ("of the base's tokens not there", ours.ids.keys() - theirs.ids.keys()),
            ("tokens the base lacks", more),
            ("of these left out", more - output.ids.keys()),
        ]
        said = [f"{len(found)} {text}, as {min(found)!r}" for text, found in parts if found]
        if said:
            told.append(f"{member.name}: {'; '.join(said)}")
    made = [number for number in rows.made if number not in rows.lent]
    given = sum(any(found[number] != NONE for found in rows.experts) for number in made)
    if given:
        told.append(f"{given} rows the base lacks: each the mean of the tasks that have the token")
    if len(made) > given:
        missing = len(made) - given
        told.append(f"{missing} rows of no model: each the mean of the base's tokens")
    return told


def _unused(tokens: Mapping[str, TokenRow], every: Sequence[Tokenizer]) -> list[str]:
    """Return a note on tokens that every model has, whose rows are not forced."""
    names = [
        token
        for token, row in tokens.items()
        if not row.force and all(token in tokenizer.ids for tokenizer in every)
    ]
    if not names:
        return []
    return [f"tokens: all models have {some(names)}, and keep their rows without force: true"]
