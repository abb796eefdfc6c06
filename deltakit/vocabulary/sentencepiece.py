"""The pieces of a sentencepiece model, read from its protobuf without the library."""

from __future__ import annotations

from collections.abc import Iterator

from deltakit.errors import BadFile

_REMEDY = (
    "write a tokenizer.json: in transformers,"
    " AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
)


def pieces(data: bytes, where: str) -> list[str]:
    r"""Return the pieces in the order of their ids.

    >>> pieces(b"\n\x05\n\x03abc\n\x03\n\x01d", "spiece.model")
    ['abc', 'd']

    Field 1 of the file is one piece after another, field 1 of a piece its text. Raises BadFile for
    what is no such file.
    """
    try:
        found = [
            text.decode()
            for number, piece in _fields(data)
            if number == 1
            for field, text in _fields(piece)
            if field == 1
        ]
    except (IndexError, ValueError):
        found = []
    if not found:
        raise BadFile("not a sentencepiece model", where=where, remedy=_REMEDY)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each field of a message; numbers come as no bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("cut short")
            yield key >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("no such kind of field")
    if at > len(data):
        raise ValueError("cut short")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("over 64 bits")
