"""A strategy that is a file of one's own: the digest a recipe keeps of it."""

from __future__ import annotations

from deltakit.errors import BadValue
from deltakit.strategies import file_of, is_own_file


def code_digest(strategy: str, known: str | None) -> str | None:
    """Return the blake3 of the strategy's own file, None where it has none.

    Raises BadValue where it is not the one `known`.
    """
    if not is_own_file(strategy):
        return None
    from blake3 import blake3

    path = file_of(strategy)
    found = blake3(path.read_bytes()).hexdigest()
    if known not in (None, found):
        raise BadValue(
            "the strategy's file is not the one the recipe was made with",
            where=str(path),
            expected=f"blake3 {known}",
            got=f"blake3 {found}",
            remedy="bring that file back, or take strategy_digest out of the recipe",
        )
    return found
