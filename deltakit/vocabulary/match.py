"""Bringing a base and its experts into one vocabulary, chosen by --tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltakit.delta_source import DeltaSource, is_merged
from deltakit.errors import BadValue, NotFound
from deltakit.importance import ImportanceMap
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.index import check_link, read_json
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary.files import (
    Replaced,
    config_files,
    copied_files,
    tokenizer_folder,
    union_files,
)
from deltakit.vocabulary.maps import matched_map
from deltakit.vocabulary.rows import NONE, Rows
from deltakit.vocabulary.sources import Donors, MatchedBase, MatchedDelta, Resized, model_of
from deltakit.vocabulary.tensors import rows_of, vocabulary_tensors, with_rows
from deltakit.vocabulary.tokenizer import MOST_TOKENS, Tokenizer
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
) -> Matched:
    """Return the sources in one vocabulary: "base", "union", or the tokenizer of a path.

    Rows are matched by token. A delta's row is zero where the expert or the base lacks the token;
    what the base lacks is defined by `MatchedBase`. "base" keeps the base's rows, "union" adds
    what is missing, a path's own tokens and no others are kept. `weights` are those of each merged
    tensor, one an expert. A stored delta or an adapter is in
    the base's vocabulary. Raises BadFile for a damaged tokenizer, NotFound for a missing one,
    BadValue where there is nothing to match or the union cannot be made.
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
        raise _without(base.label)
    before = rows_of(base.infos[tensors[0]])
    models = [model_of(source) for source in sources]
    notes: list[str] = []
    theirs = [
        _of_expert(name, model, ours, tensors[0], before, notes)
        for name, model in zip(names, models, strict=True)
    ]
    folder = None
    if choice == "base":
        output, after, files = ours, before, Replaced()
    elif choice == "union":
        output = union(ours, [_within(t, rows) for t, rows in theirs])
        after = before if output is ours else max(before, output.size)
        files = union_files(base, ours, output)
    else:
        folder = tokenizer_folder(choice)
        found = Tokenizer.open(folder)
        if found is None:
            raise _without(str(folder))
        output, files = found, copied_files(folder)
        after = _rows_beside(folder, output)
    configs, strange = config_files(base, ours, output, (before, after), folder)
    matched = {
        name: Rows.of(
            output,
            after,
            ours,
            before,
            [
                (t, _rows_in(model, name, before))
                for (t, _), model in zip(theirs, models, strict=True)
            ],
        )
        for name in tensors
    }
    infos = {name: with_rows(base.infos[name], after) for name in tensors}
    donors = Donors(models, weights)
    rows = matched[tensors[0]]
    notes += [*strange, *_notes(names, theirs, ours, output, rows)]
    return Matched(
        MatchedBase(base, infos, matched, donors),
        [
            MatchedDelta(source, expert, _seen(base, models[expert], tensors), matched)
            for expert, source in enumerate(sources)
        ],
        matched,
        len(output.ids),
        (before, after),
        {**files, **configs},
        notes,
    )


def _of_expert(
    name: str,
    model: Checkpoint | None,
    ours: Tokenizer,
    embedding: str,
    before: int,
    notes: list[str],
) -> tuple[Tokenizer, int]:
    """Return an expert's tokenizer and its rows; deltas and adapters have the base's."""
    if model is None:
        return ours, before
    rows = rows_of(model.infos[embedding]) if embedding in model.infos else before
    found = Tokenizer.open(model.folder)
    if found is not None:
        return found, rows
    if rows != before:
        raise _without(model.label)
    notes.append(f"{name}: no tokenizer beside it; its tokens are taken to be the base's")
    return ours, before


def _without(label: str) -> NotFound:
    return NotFound(
        "no tokenizer is beside the model, so its rows cannot be matched by token",
        where=label,
        expected="tokenizer.json; or vocab.json, vocab.txt or a sentencepiece model",
        remedy="copy the tokenizer's files there",
    )


def _within(tokenizer: Tokenizer, rows: int) -> Tokenizer:
    """Return the tokenizer without tokens that the embedding has no row for."""
    if tokenizer.size <= rows:
        return tokenizer
    ids = {token: number for token, number in tokenizer.ids.items() if number < rows}
    return Tokenizer(tokenizer.label, ids, tokenizer.kind, tokenizer.added, tokenizer.table)


def _rows_beside(folder: Path, output: Tokenizer) -> int:
    """Return the rows for a path's tokenizer: its model's, where a config.json beside it tells."""
    path = folder / "config.json"
    config = read_json(check_link(path, folder)) if path.exists() else {}
    told = config.get("vocab_size") if isinstance(config, dict) else None
    return told if type(told) is int and output.size <= told < MOST_TOKENS else output.size


def _rows_in(model: Checkpoint | None, name: str, before: int) -> int:
    if model is None:
        return before
    return rows_of(model.infos[name]) if name in model.infos else 0


def _seen(base: Checkpoint, model: Checkpoint | None, tensors: Sequence[str]) -> TensorSource:
    """Return the base with the expert's own numbers of rows, to compare shapes with."""
    if model is None:
        return base
    infos = {
        name: with_rows(base.infos[name], rows_of(model.infos[name]))
        for name in tensors
        if name in model.infos
    }
    return Resized(base, infos)


def _notes(
    names: Sequence[str],
    theirs: Sequence[tuple[Tokenizer, int]],
    ours: Tokenizer,
    output: Tokenizer,
    rows: Rows,
) -> list[str]:
    """Return what does not follow from the choice: how far each vocabulary is the others'."""
    told = []
    for name, (tokenizer, _) in zip(names, theirs, strict=True):
        more = tokenizer.ids.keys() - ours.ids.keys()
        parts = [
            ("tokens it lacks", ours.ids.keys() - tokenizer.ids.keys()),
            ("tokens the base lacks", more),
            ("of these left out", more - output.ids.keys()),
        ]
        said = [f"{text} {len(found)}, as {min(found)!r}" for text, found in parts if found]
        if said:
            told.append(f"{name}: {'; '.join(said)}")
    given = sum(any(found[number] != NONE for found in rows.experts) for number in rows.made)
    if given:
        told.append(f"rows the base lacks {given}: each the mean of the tasks that have the token")
    if len(rows.made) > given:
        told.append(
            f"rows of no model {len(rows.made) - given}: each the mean of the base's tokens"
        )
    return told
