"""The files beside the weights that name tokens: what they become with another vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, BadValue, NotFound, nearest
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.files import LOCAL, Files, read_whole
from deltakit.tensors.index import check_link, read_json
from deltakit.vocabulary.tokenizer import MOST_BYTES, OLDER_FILES, TOKENIZER_FILES, Tokenizer
from deltakit.vocabulary.union import added_entry, tokenizer_json

_CONFIGS = ("config.json", "generation_config.json")
Replaced = dict[str, "bytes | None"]  # a file's name and content, None for one left out


def union_files(folder: Path, old: Tokenizer, new: Tokenizer) -> Replaced:
    """Return the tokenizer's files where the union has more tokens than that of a folder."""
    if new is old:
        return {}
    assert new.table is not None
    found: Replaced = dict.fromkeys(OLDER_FILES)
    found["tokenizer.json"] = tokenizer_json(new.table)
    path = folder / "tokenizer_config.json"
    config = _object(path, folder) if path.exists() else {}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for token, entry in new.added.items():
            decoder.setdefault(str(new.ids[token]), added_entry(entry, token))
        found["tokenizer_config.json"] = _bytes(config)
    return found


def copied_files(folder: Path, files: Files = LOCAL) -> Replaced:
    """Return the tokenizer's files of a folder, to stand in for the base's."""
    found: Replaced = {}
    for name in TOKENIZER_FILES:
        there = files.exists(folder / name)
        found[name] = (
            read_whole(check_link(folder / name, folder), files, MOST_BYTES) if there else None
        )
    return found


def config_files(
    base: Checkpoint,
    old: Tokenizer,
    new: Tokenizer,
    rows: tuple[int, int],
    folder: Path | None,
) -> tuple[Replaced, list[str]]:
    """Return config.json and generation_config.json where they change, and notes.

    `rows` are those of the embedding before and after: vocab_size follows. With another tokenizer
    (`folder` is its own) an id as eos_token_id becomes that of the same token; where the tokenizer
    has no such token, that of its folder's own file. Raises BadValue for an id that is neither's.
    """
    found: Replaced = {}
    notes: list[str] = []
    for name in _CONFIGS:
        path = base.folder / name
        if not path.exists():
            continue
        table = _object(path, base.folder)
        before = _bytes(table)
        if rows[0] != rows[1]:
            _resize(table, rows, name)
        if folder is not None:
            other = folder / name
            fallback = _object(other, folder) if other.exists() else {}
            _translate(table, old, new, fallback, name)
        strange = [
            f"{key} {number}" for key, number in _special(table) if not 0 <= number < rows[1]
        ]
        if strange:
            notes.append(f"{name}: no row of the vocabulary: {', '.join(strange)}")
        if _bytes(table) != before:
            found[name] = _bytes(table)
    return found, notes


def _resize(table: dict[str, Any], rows: tuple[int, int], name: str) -> None:
    """Set vocab_size, in the config or in a part of it."""
    parts = [table, *(part for part in table.values() if isinstance(part, dict))]
    sized = [part for part in parts if part.get("vocab_size") == rows[0]]
    if not sized and name == "config.json":
        raise BadValue(
            "config.json does not give the vocabulary's size, which changes",
            expected=f"vocab_size {rows[0]}, the rows of the embedding",
            got=f"{table.get('vocab_size')}",
            remedy="write it there, as the model has it",
        )
    for part in sized:
        part["vocab_size"] = rows[1]


def _translate(
    table: dict[str, Any],
    old: Tokenizer,
    new: Tokenizer,
    fallback: Mapping[str, Any],
    name: str,
) -> None:
    """Give each special token its id in the new tokenizer."""
    tokens = old.tokens
    for key in dict.fromkeys(key for key, _ in _special(table)):
        told = table[key] if isinstance(table[key], list) else [table[key]]
        found = [new.ids.get(tokens.get(number, ""), -1) for number in told if number >= 0]
        if -1 not in found:
            if found:
                table[key] = found if isinstance(table[key], list) else found[0]
            continue
        if key not in fallback:
            raise BadValue(
                f"{key} of {name} is a token that the output's tokenizer does not have",
                where=new.label,
                got=", ".join(f"{number}: {tokens.get(number)!r}" for number in told),
                remedy=f"write {name} with its {key} beside that tokenizer",
            )
        table[key] = fallback[key]


def _special(table: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield each id of a special token and its key; none and negative ones are no tokens."""
    for key, value in table.items():
        if key.endswith(("_token_id", "_token_ids")):
            for number in value if isinstance(value, list) else [value]:
                if type(number) is int and number >= 0:
                    yield key, number


def _object(path: Path, folder: Path) -> dict[str, Any]:
    table = read_json(check_link(path, folder))
    if not isinstance(table, dict):
        raise BadFile("not a JSON object", where=str(path))
    return table


def _bytes(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=2) + "\n").encode()


def tokenizer_folder(path: str) -> Path:
    """Return the folder of a tokenizer named by its folder or its tokenizer.json."""
    found = Path(path)
    if found.is_file() and found.name == "tokenizer.json":
        return found.parent
    if path and found.is_dir():
        return found
    meant = nearest(path, ("base", "union"))
    raise NotFound(
        "no such tokenizer",
        where=path or "an empty path",
        expected="base, union, or the path of a folder that holds tokenizer.json",
        remedy=f"did you mean {meant!r}?" if meant else None,
    )
