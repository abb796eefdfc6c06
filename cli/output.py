"""What the verbs print: tables, JSON, sizes; on a terminal in its width, piped in full."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

GAP = "  "
NARROWEST = 8  # a column of names is not shortened below this


def say(text: str = "") -> None:
    """Print a result, to stdout."""
    print(text)


def note(text: str) -> None:
    """Print a remark or an error, to stderr."""
    print(text, file=sys.stderr)


def emit(data: Any, render: Callable[[], None], as_json: bool) -> None:
    """Print `data` as one JSON document, or let `render` print it for a reader.

    data: dicts, lists, numbers, strings, dataclasses, msgspec structs, paths. Keys of a dict are
    sorted, fields keep their order; infinities and NaN become null.
    """
    if not as_json:
        render()
        return
    import msgspec

    raw = msgspec.json.encode(data, enc_hook=_plain, order="deterministic")
    say(msgspec.json.format(raw, indent=2).decode())


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

    align: one letter a column, "l" or "r"; the last one counts for all columns that follow. On a
    terminal the longest left-aligned columns are shortened in the middle until a row fits.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    sides = [align[min(i, len(align) - 1)] for i in range(len(headers))]
    widths = [max(map(width, column)) for column in zip(headers, *cells, strict=True)]
    if is_terminal(sys.stdout):
        _narrow(widths, sides, columns())
    if title:
        say(bold(title))
    say(bold(_line(headers, widths, sides)))
    for row in cells:
        say(_line(row, widths, sides))


def _narrow(widths: list[int], sides: Sequence[str], room: int) -> None:
    names = [i for i, side in enumerate(sides) if side == "l"]
    while names and sum(widths) + len(GAP) * (len(widths) - 1) > room:
        longest = max(names, key=lambda i: widths[i])
        if widths[longest] <= NARROWEST:
            return
        widths[longest] -= 1


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
    """Return the text with blanks up to `room` columns, put to the left ("l") or right ("r")."""
    blank = " " * (room - width(text))
    return text + blank if side == "l" else blank + text


def printable(text: str) -> str:
    r"""Return text from a file with its control characters spelled out, so none reaches a terminal.

    >>> printable("a\x1b[2J")
    'a\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def size(nbytes: int) -> str:
    """Return a number of bytes for a reader, in powers of 1000.

    >>> size(999), size(12_345_678), size(5_000_000_000)
    ('999 B', '12.3 MB', '5.0 GB')
    """
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def fraction(x: float | None) -> str:
    """Return a fraction for a reader: three decimals, more for a small one, "-" for none.

    >>> fraction(0.1), fraction(0.00012), fraction(0.0), fraction(-0.147098), fraction(None)
    ('0.100', '1.2e-04', '0', '-0.147', '-')
    """
    if x is None:
        return "-"
    if x == 0.0:
        return "0"
    return f"{x:.1e}" if abs(x) < 0.001 else f"{x:.3f}"


def seconds(x: float) -> str:
    """Return a duration for a reader.

    >>> seconds(0.0042), seconds(7.25), seconds(192)
    ('4 ms', '7.2 s', '3 min 12 s')
    """
    if x < 0.9995:
        return f"{x * 1000:.0f} ms"
    if x < 59.95:
        return f"{x:.1f} s"
    whole = round(x)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
