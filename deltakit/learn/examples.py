"""Labelled text: one JSON object a line, checked line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltakit.errors import BadFile, NotFound

EXPECTED = '{"text": "...", "label": "..."}'


@dataclass(frozen=True)
class Example:
    """A text, its label (a name, or an index), and the line it stands in."""

    text: str
    label: str | int
    line: int


def read_examples(path: str | Path) -> list[Example]:
    """Read a JSONL file of labelled texts; nothing is skipped but empty lines at its end.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write('{"text": "who?", "label": "person"}')
    ...     file.flush()
    ...     read_examples(file.name)
    [Example(text='who?', label='person', line=1)]

    Raises `NotFound` for no file and `BadFile` naming the line for anything else than an object
    with exactly a non-empty string `text` and a string or integer `label`.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFound("no such data file", where=str(file), expected=f"lines {EXPECTED}")
    try:
        lines = file.read_text(encoding="utf-8").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise BadFile("not UTF-8 text", where=str(file), got=str(error)) from None
    if lines == [""]:
        raise BadFile("the file has no example", where=str(file), expected=f"lines {EXPECTED}")
    return list(_parse(lines, file))


def _parse(lines: list[str], file: Path) -> Iterator[Example]:
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise _bad("the line is no JSON", file, number, f"{_short(line)} ({error})") from None
        if not isinstance(found, dict) or found.keys() != {"text", "label"}:
            raise _bad("the line is no labelled text", file, number, _short(line))
        text, label = found["text"], found["label"]
        if not isinstance(text, str) or not text:
            raise _bad("text is not a non-empty string", file, number, _short(repr(text)))
        if not isinstance(label, str | int) or isinstance(label, bool) or label == "":
            raise _bad("label is neither a name nor an index", file, number, repr(label))
        yield Example(text, label, number)


def _bad(fact: str, file: Path, number: int, got: str) -> BadFile:
    return BadFile(fact, where=f"{file} line {number}", expected=EXPECTED, got=got)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
