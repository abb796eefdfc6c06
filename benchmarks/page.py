"""Tables that a command puts into a page of the documentation."""

from __future__ import annotations

from pathlib import Path

from deltakit.errors import BadValue


def write(page: Path, name: str, text: str) -> None:
    """Put a table between the page's two marks `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises BadValue when the page has not just one of each, in that order.
    """
    whole = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = whole.partition(begin)
    _, _, after = rest.partition(end)
    if whole.count(begin) != 1 or rest.count(end) != 1 or whole.count(end) != 1:
        raise BadValue(
            "the page has no place for the table",
            where=str(page),
            expected=f"one line {begin.strip()!r}, and after it one line {end.strip()!r}",
        )
    table = text.strip("\n")
    page.write_text(f"{before}{begin}\n```\n{table}\n```\n\n{end}{after}", encoding="utf-8")
