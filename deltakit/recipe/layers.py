"""A range of layers, as a rule names it."""

from __future__ import annotations

import re

from deltakit.errors import BadValue

Layers = int | str | list[int]


def layer_range(layers: Layers, last: int) -> tuple[int, int]:
    """Return the first and last layer of a range, both in it, in a model whose last is `last`.

    >>> layer_range("4-7", 11), layer_range([4, 7], 11), layer_range("8-", 11), layer_range(3, 11)
    ((4, 7), (4, 7), (8, 11), (3, 3))

    Raises BadValue for what is no range, or has a layer that the model does not have.
    """
    ends = _ends(layers, last)
    if ends is None:
        raise BadValue(
            "not a range of layers",
            expected='4, "4-7" (both in it), "4-" (to the last) or [4, 7]',
            got=f"{layers}"[:40],
        )
    first, final = ends
    if not 0 <= first <= final <= last:
        raise BadValue(
            "a range of layers is not in the model",
            expected=f"layers from 0 to {last}, the first before the last",
            got=f"{first}-{final}",
        )
    return first, final


def text(layers: Layers) -> str:
    """Return a range of layers for a reader.

    >>> text([4, 7]), text("8-"), text(3)
    ('4-7', '8-', '3')
    """
    return "-".join(map(str, layers)) if isinstance(layers, list) else str(layers)


def _ends(layers: Layers, last: int) -> tuple[int, int] | None:
    if isinstance(layers, int):
        return layers, layers
    if isinstance(layers, list):
        return (layers[0], layers[1]) if len(layers) == 2 else None
    found = re.fullmatch(r"([0-9]{1,6})(-([0-9]{1,6})?)?", layers)
    if found is None:
        return None
    first = int(found[1])
    if found[2] is None:
        return first, first
    return first, last if found[3] is None else int(found[3])
