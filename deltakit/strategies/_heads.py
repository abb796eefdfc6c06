"""Which parameters hold attention heads, and along which side, read from their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltakit.errors import BadValue, ShapeMismatch

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = r"(q|k|v|query|key|value)(_proj|_lin)?"
_COLUMNS = r"(o|out)(_proj|_lin)|o|output\.dense"
_NAME = re.compile(
    rf"(?P<block>.*attn|.*[Aa]ttention)\.(self\.)?(({_ROWS})|(?P<o>{_COLUMNS}))\.(\w+)"
)


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
    block = found["block"]
    if block.endswith(".attention.attention"):  # of ViT, whose output is not in the inner one
        block = block.removesuffix(".attention")
    return Place(block, found["o"] is not None)


def head_shape(name: str, shape: tuple[int, ...], heads: int) -> tuple[int, ...] | None:
    """Return the shape of a parameter's scores of heads; None where it has no heads.

    >>> head_shape("h.0.attn.q_proj.weight", (8, 6), 2), head_shape("h.0.attn.o_proj.weight",
    ...     (6, 8), 2), head_shape("h.0.attn.q_proj.bias", (8,), 2)
    ((2, 1), (1, 2), (2,))

    One score for each block of rows, or of columns of an output projection. Raises ShapeMismatch
    where the heads do not divide them.
    """
    place = attention_place(name)
    side = 1 if place is not None and place.columns else 0
    if place is None or len(shape) <= side or shape == (1,):
        return None
    if heads < 1 or shape[side] % heads:
        raise ShapeMismatch(
            "the heads do not divide a parameter evenly",
            where=name,
            got=f"{shape[side]} {'columns' if side else 'rows'}, {heads} heads",
        )
    return tuple(heads if i == side else 1 for i in range(len(shape)))


def attention_blocks(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the parameters of each attention block that hold its heads.

    >>> attention_blocks(["h.0.attn.q_proj.weight", "h.0.attn.o_proj.weight", "h.0.mlp.weight"])
    {'h.0.attn': ['h.0.attn.q_proj.weight', 'h.0.attn.o_proj.weight']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        place = attention_place(name)
        if place is not None:
            found.setdefault(place.block, []).append(name)
    return found


def check_heads(scores: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless scores of head units fit parameters of these shapes.

    A head's score stands with each of its parameters, and must be the same there; other parameters
    have one score. ShapeMismatch for what does not fit a parameter, BadValue for what differs.
    """
    for name, shape in shapes.items():
        found = tuple(scores[name].shape)
        fitting = head_shape(name, shape, scores[name].numel()) if found else ()
        if found != fitting:
            raise ShapeMismatch(
                "scores of heads do not fit a parameter",
                where=name,
                expected="[]" if fitting is None else f"[] or {list(fitting)}",
                got=f"{list(found)}",
            )
    for block, names in attention_blocks(shapes).items():
        members = [name for name in names if head_shape(name, shapes[name], 1) is not None]
        for first, name in zip(members[:1] * len(members), members, strict=True):
            if scores[first].reshape(-1).tolist() != scores[name].reshape(-1).tolist():
                raise BadValue(
                    "a head has one score, the same for all its parameters",
                    where=block,
                    got=f"another one in {name!r} than in {first!r}",
                    remedy="capture the map again",
                )
