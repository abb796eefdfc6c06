"""Names of tasks and bases: they become names of folders and files, so few things are allowed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from deltakit.errors import AlreadyThere, BadValue

MOST_BYTES = 200


def check_name(name: str, what: str) -> str:
    """Return `name` when it can name a task or base, else raise BadValue with the reason.

    >>> check_name("trec", "task")
    'trec'
    """
    reason = _reason(name)
    if reason is not None:
        raise BadValue(
            f"this cannot name a {what}: it {reason}",
            got=ascii(name[:80]),
            remedy="use letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )
    return name


def _reason(name: str) -> str | None:
    if not name:
        return "is empty"
    if name[0] in ".-":
        return f"begins with {name[0]!r}"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    if "=" in name or name.endswith(".safetensors"):
        return "would read as a path, or as name=PATH, on a command line"
    # Cc, Cf, Cs, Co, Cn: control and invisible characters, half surrogates. Zl, Zp: line ends.
    if any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in "Zl Zp" for c in name):
        return "holds a control character"
    if name != name.strip():
        return "begins or ends with a space"
    if len(name.encode()) > MOST_BYTES:
        return f"is longer than {MOST_BYTES} bytes"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode's composed form (NFC)"
    return None


def check_distinct(name: str, taken: Iterable[str], what: str) -> None:
    """Raise AlreadyThere when another name differs from `name` in case only.

    Such names would be one folder on a file system that ignores case.
    """
    folded = name.casefold()
    for other in taken:
        if other != name and other.casefold() == folded:
            raise AlreadyThere(
                f"the {what} {name!r} differs from {other!r} in upper and lower case only",
                remedy="choose another name",
            )
