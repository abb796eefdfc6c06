"""Sizes as people write them."""

from __future__ import annotations

import re

from deltakit.errors import BadValue

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Return a number of bytes: "512MB", "5GB" and "100" are decimal, "1GiB" is binary.

    >>> parse_size("512MB"), parse_size("1KiB")
    (512000000, 1024)
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)(i?)B?\s*", text)
    if match is None or (match[3] and not match[2]):
        raise BadValue("not a size", got=text, expected="a number and a unit, as 512MB or 1GiB")
    units = _BINARY if match[3] else _UNITS
    return int(float(match[1]) * units[match[2].upper()])
