"""What the verbs print: tables, JSON, sizes; on a terminal in its width, piped in full."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from deltakit.errors import printable as printable  # noqa: PLC0414  verbs import it from here

GAP = "  "
NARROWEST = 8  # a column of names is not shortened below this


def say(text: str = "", *, strong: bool = False) -> None:
    """Print one line of a result, to stdout: a name in it can neither end it nor steer a terminal.

    strong: in bold on a terminal.
    """
    shown = printable(text)
    _put(bold(shown) if strong else shown)


def _put(text: str) -> None:
    """Write to stdout; a reader that has seen enough is no error."""
    try:
        print(text)
    except BrokenPipeError:
        silence(sys.stdout)


def flush() -> None:
    """Write out what is buffered of the results."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)


def silence(stream: TextIO) -> None:
    """Let what is still to be written to a stream whose reader is gone go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say_wrapped(text: str, indent: int = 2) -> None:
    """Print a result whose long lines go on, so far from the margin, where a terminal ends."""
    _put(_wrapped_text(printable(text), indent, sys.stdout))


def note(text: str) -> None:
    """Print a remark or an error, to stderr; where nobody reads it, the work is done all the same.

    What the process has done is told by its exit code, and not by who listened.
    """
    try:
        print(_wrapped_text(text, 6, sys.stderr), file=sys.stderr)
    except OSError:
        silence(sys.stderr)


def notes(texts: Iterable[str]) -> None:
    """Print remarks that are a line each, to stderr."""
    for text in texts:
        note(f"note: {printable(text)}")


def _wrapped_text(text: str, indent: int, stream: TextIO) -> str:
    """Return text as wide as the terminal; what is piped, and a word that is longer, stays whole.

    What is under another line, as an error's `expected`, goes on under its own beginning.
    """
    given = [printable(line) for line in text.split("\n")]
    if not is_terminal(stream):
        return "\n".join(given)
    import textwrap

    lines = []
    for line in given:
        under = " " * (12 if line.startswith(" ") else indent)
        lines += textwrap.wrap(
            line,
            columns(),
            subsequent_indent=under,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [line]
    return "\n".join(lines)


def emit(data: Any, render: Callable[[], None], as_json: bool) -> None:
    """Print `data` as one JSON document, or let `render` print it for a reader.

    data: dicts, lists, numbers, strings, dataclasses, msgspec structs, paths. Keys of a dict are
    sorted, fields keep their order; infinities and NaN become null, a byte of a path that is not
    UTF-8 becomes a backslash, udc and its two digits.
    """
    if not as_json:
        render()
        return
    import msgspec

    try:
        raw = msgspec.json.encode(data, enc_hook=_plain, order="deterministic")
    except UnicodeEncodeError:  # a path whose bytes are no UTF-8
        plain = _encodable(msgspec.to_builtins(data, enc_hook=_plain))
        raw = msgspec.json.encode(plain, order="deterministic")
    _put(_escaped(msgspec.json.format(raw, indent=2).decode()))


def _encodable(value: Any) -> Any:
    """Return plain data whose texts are UTF-8, what is none in them spelled out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return value


def _escaped(text: str) -> str:
    """Return JSON with what is not printable, other than its line breaks, spelled out."""
    if text.replace("\n", "").isprintable():
        return text
    import json

    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    align: str = "l",
    title: str | None = None,
) -> None:
    """Print rows of text in columns.

    align: one letter a column, "l", "r" or "w" (text that may wrap); the last one counts for all
    columns that follow. The widest columns give way until a row fits: texts wrap, and on a terminal
    names are shortened in the middle. Piped, nothing is left out: a row without texts is one line.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    heads = [printable(head) for head in headers]
    sides = [align[min(i, len(align) - 1)] for i in range(len(heads))]
    everything = list(zip(heads, *cells, strict=True))
    widths = [max(map(width, column)) for column in everything]
    least = [_least(column, side) for column, side in zip(everything, sides, strict=True)]
    _narrow(widths, least, columns())
    if title:
        say(title, strong=True)
    say(_line(heads, widths, sides), strong=True)
    for row in cells:
        for line in _wrapped(row, widths, sides):
            say(_line(line, widths, sides))


def _least(column: Sequence[str], side: str) -> int:
    """Return how narrow a column may get, its head first: a number or a word is never cut."""
    if side == "w":
        return max((width(word) for cell in column for word in cell.split()), default=0)
    if not is_terminal(sys.stdout):
        return max(map(width, column))
    return max(map(width, column[1:]), default=0) if side == "r" else NARROWEST


def _wrapped(row: Sequence[str], widths: Sequence[int], sides: Sequence[str]) -> list[list[str]]:
    import textwrap

    parts = [
        textwrap.wrap(cell, room) if side == "w" and width(cell) > room else [cell]
        for cell, room, side in zip(row, widths, sides, strict=True)
    ]
    lines = max(map(len, parts), default=0)
    return [[part[i] if i < len(part) else "" for part in parts] for i in range(lines)]


def _narrow(widths: list[int], least: Sequence[int], room: int) -> None:
    """Take columns from the widest that may still shrink, until all fit."""
    while sum(widths) + len(GAP) * (len(widths) - 1) > room:
        wide = [i for i in range(len(widths)) if widths[i] > least[i]]
        if not wide:
            return
        widths[max(wide, key=lambda i: widths[i])] -= 1


def _line(row: Sequence[str], widths: Sequence[int], sides: Sequence[str]) -> str:
    return GAP.join(
        pad(shorten(cell, room), room, side)
        for cell, room, side in zip(row, widths, sides, strict=True)
    ).rstrip()


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Print named values one a line, the values in one column."""
    named = [(name, printable(value)) for name, value in pairs]
    room = max((width(name) for name, _ in named), default=0)
    for name, value in named:
        say(f"{pad(name, room, 'l')}{GAP}{value}")


def shorten(text: str, room: int) -> str:
    """Return text of at most `room` columns, the middle left out.

    >>> shorten("model.layers.31.self_attn.q_proj.weight", 20)
    'model.laye…oj.weight'
    """
    if width(text) <= room:
        return text
    head, tail = text[: room // 2], text[len(text) - (room - room // 2 - 1) :]
    while width(head) + 1 + width(tail) > room:  # wide letters
        head, tail = (head[:-1], tail) if len(head) >= len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def width(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def pad(text: str, room: int, side: str) -> str:
    """Return the text with blanks up to `room` columns: put to the right for "r", else left."""
    blank = " " * (room - width(text))
    return blank + text if side == "r" else text + blank


def columns() -> int:
    """Return the width of the terminal; COLUMNS overrules it."""
    return shutil.get_terminal_size((80, 24)).columns


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person watches the stream, on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def bold(text: str) -> str:
    """Return the text in bold on a terminal; NO_COLOR turns that off."""
    if is_terminal(sys.stdout) and not os.environ.get("NO_COLOR"):
        return f"\x1b[1m{text}\x1b[0m"
    return text
