"""Both ends of a tie in one adapter: what it changes twice, and alike."""

from __future__ import annotations

from collections.abc import Sequence

from deltakit.lora.adapter import Adapter
from deltakit.lora.arrays import Arrays, arrays, distance

SAME = 0.01  # of its norm: how far a tied head's delta may be from its embedding's


def repeated(missing: Sequence[str], adapter: Adapter) -> dict[str, str]:
    """Return, of the parameters that a base lacks, those that another one's change repeats.

    PEFT writes both ends of a tie, kept whole or adapted, where it was told to keep them tied.
    """
    present = [name for name in adapter.parameters if name not in missing]
    found = {}
    for name in missing:
        same = next((other for other in present if _repeats(name, other, adapter)), None)
        if same is not None:
            found[name] = same
    return found


def _repeats(name: str, other: str, adapter: Adapter) -> bool:
    """Tell whether an adapter changes two parameters to the same, in all ways it changes them."""
    head, embedding = (n.removesuffix(".weight") for n in (name, other))
    whole, parts = adapter.whole, adapter.parts
    if (name in whole, head in parts) != (other in whole, embedding in parts):
        return False
    if {name, other} & set(adapter.rows) or (name not in whole and head not in parts):
        return False
    if head in parts and not _turned_alike(head, embedding, adapter):
        return False
    infos, digest = adapter.source.infos, adapter.source.digest
    tensors = [whole[n] for n in (name, other) if n in whole]
    return len({infos[t] for t in tensors}) < 2 and len({digest(t) for t in tensors}) < 2


def _turned_alike(head: str, embedding: str, adapter: Adapter) -> bool:
    """Tell whether a head's delta is an embedding's, as PEFT's ensure_weight_tying has it.

    Merged to a smaller rank and rounded, the two are no longer equal in every bit.
    """
    one, two = adapter.parts[head], adapter.parts[embedding]
    if (one.kind, two.kind, one.bias) != ("linear", "embedding", None) or one.magnitude:
        return False
    if (one.outputs, *one.inputs) != (*two.inputs, two.outputs):
        return False
    ours, theirs = arrays(adapter, head), arrays(adapter, embedding)
    return distance(ours, Arrays(theirs.b.T, theirs.a.T)) <= SAME * distance(ours)
