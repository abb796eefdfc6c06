"""Bringing a base and its experts into one vocabulary, chosen by --tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltakit.delta_source import DeltaSource, is_merged
from deltakit.errors import BadValue
from deltakit.importance import ImportanceMap
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.index import check_link, read_json
from deltakit.vocabulary.base import Donors, MatchedBase
from deltakit.vocabulary.delta import MatchedDelta
from deltakit.vocabulary.files import (
    Replaced,
    config_files,
    copied_files,
    tokenizer_folder,
    union_files,
)
from deltakit.vocabulary.ids import MOST_TOKENS
from deltakit.vocabulary.maps import matched_map
from deltakit.vocabulary.members import Member, no_tokenizer
from deltakit.vocabulary.rows import NONE, Rows
from deltakit.vocabulary.tensors import rows_of, vocabulary_tensors, with_rows
from deltakit.vocabulary.tokenizer import Tokenizer
from deltakit.vocabulary.union import union


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
) -> Matched:
    """Return the sources in one vocabulary: "base", "union", or the tokenizer of a path.

    Rows are matched by token. A delta's row is zero where the expert or the base lacks the token;
    what the base lacks is defined by `MatchedBase`. "base" keeps the base's rows, "union" adds what
    is missing, a path's own tokens and no others are kept. `weights` are those of each merged
    tensor, one an expert. The number of rows is rounded up to a multiple of `multiple`. A stored
    delta or an adapter is in the base's vocabulary. Raises BadFile for a damaged tokenizer,
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
    folder = None
    if choice == "base":
        output, after, files = ours, before, Replaced()
    elif choice == "union":
        output = union(ours, [member.tokenizer for member in members])
        after = before if output is ours else max(before, output.size)
        files = union_files(base, ours, output)
    else:
        folder = tokenizer_folder(choice)
        found = Tokenizer.open(folder)
        if found is None:
            raise no_tokenizer(str(folder))
        output, after, files = found, _rows_beside(folder, found), copied_files(folder)
    after += -after % (multiple or 1)
    configs, strange = config_files(base, ours, output, (before, after), folder)
    matched = _matched(output, after, ours, before, members, tensors)
    infos = {name: with_rows(base.infos[name], after) for name in tensors}
    donors = Donors([member.model for member in members], weights)
    return Matched(
        MatchedBase(base, infos, matched, donors),
        [
            MatchedDelta(source, expert, member.seen(base), matched)
            for expert, (source, member) in enumerate(zip(sources, members, strict=True))
        ],
        matched,
        len(output.ids),
        (before, after),
        {**files, **configs},
        [*strange, *_notes(members, ours, output, matched[tensors[0]])],
    )


def _matched(
    output: Tokenizer,
    after: int,
    ours: Tokenizer,
    before: int,
    members: Sequence[Member],
    tensors: Sequence[str],
) -> dict[str, Rows]:
    """Return where the rows of each tensor come from, once for tensors of equal rows."""
    known: dict[tuple[int, ...], Rows] = {}
    found = {}
    for tensor in tensors:
        key = tuple(member.rows[tensor] for member in members)
        if key not in known:
            experts = [(member.tokenizer, member.rows[tensor]) for member in members]
            known[key] = Rows.of(output, after, ours, before, experts)
        found[tensor] = known[key]
    return found


def _rows_beside(folder: Path, output: Tokenizer) -> int:
    """Return the rows for a path's tokenizer: its model's, where a config.json beside it tells."""
    path = folder / "config.json"
    config = read_json(check_link(path, folder)) if path.exists() else {}
    told = config.get("vocab_size") if isinstance(config, dict) else None
    return told if type(told) is int and output.size <= told < MOST_TOKENS else output.size


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
    given = sum(any(found[number] != NONE for found in rows.experts) for number in rows.made)
    if given:
        told.append(f"{given} rows the base lacks: each the mean of the tasks that have the token")
    if len(rows.made) > given:
        missing = len(rows.made) - given
        told.append(f"{missing} rows of no model: each the mean of the base's tokens")
    return told
