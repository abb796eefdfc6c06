"""Which parameters hold attention heads, and along which side, read from their names."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ROWS = r"(q|k|v|query|key|value)(_proj|_lin)?"
_COLUMNS = r"(o|out)(_proj|_lin)|output\.dense"
_NAME = re.compile(rf"(?P<block>.*attn|.*attention)\.(self\.)?(({_ROWS})|(?P<o>{_COLUMNS}))\.(\w+)")


@dataclass(frozen=True)
class Place:
    """The attention block a parameter belongs to, and whether heads are its columns."""

    block: str
    columns: bool


def attention_place(name: str) -> Place | None:
    """Return where heads lie in a parameter; None where there are none.

    >>> attention_place("layers.3.self_attn.o_proj.weight")
    Place(block='layers.3.self_attn', columns=True)
    >>> attention_place("encoder.layer.0.attention.self.query.weight")
    Place(block='encoder.layer.0.attention', columns=False)

    The bias of an output projection has no heads.
    """
    found = _NAME.fullmatch(name)
    if found is None or (found["o"] and not name.endswith(".weight")):
        return None
    return Place(found["block"], found["o"] is not None)
