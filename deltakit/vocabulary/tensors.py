"""Which tensors of a model have a row for each token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deltakit.delta_source import is_merged
from deltakit.tensors.header import TensorInfo

# By the end of the name.
_EMBEDDINGS = (
    "embed_tokens.weight",
    "word_embeddings.weight",
    "shared.weight",
    "wte.weight",
    "tok_embeddings.weight",
    "token_embedding.weight",
    "embed_in.weight",
    "tokens_embed.weight",
    "word_embedding.weight",
)
# Heads, and names that are of other things too: these with as many rows as the embedding.
_OTHERS = (
    "lm_head.weight",
    "lm_head.bias",
    "decoder.weight",
    "decoder.bias",
    "predictions.bias",
    "embed_out.weight",
    "vocab_projector.weight",
    "vocab_projector.bias",
    "final_logits_bias",
    "embeddings.weight",
    "embedding.weight",
    "embed.weight",
    "output.weight",
    "output_projection.weight",
    "proj_out.weight",
    "head.weight",
    "lm_loss.weight",
    "lm_loss.bias",
)
_DEEPEST = 4  # parts of a config within parts


def vocabulary_tensors(infos: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors with a row for each token, the input embedding first.

    >>> infos = {"wte.weight": TensorInfo("F32", (50, 8)), "h.0.w": TensorInfo("F32", (8, 8))}
    >>> vocabulary_tensors(infos, {"vocab_size": 50})
    ['wte.weight']

    Known by their names in the common families and by as many rows as the embedding has; a tensor
    of another name by its rows, where config.json gives no other size of that number.
    """
    numbers = list(_numbers(config))
    sizes = {size for key, size in numbers if key == "vocab_size"}
    named = {rows_of(info) for name, info in infos.items() if _ends(name, _EMBEDDINGS)}
    rows = max(named & sizes or named or sizes, default=0)
    if rows < 2:
        return []
    others = {size for key, size in numbers if "vocab" not in key and "_id" not in key}
    by_size = rows in sizes and rows not in others
    found = [
        name
        for name, info in infos.items()
        if rows_of(info) == rows
        and (_ends(name, _EMBEDDINGS + _OTHERS) or (by_size and is_merged(info)))
    ]
    return sorted(found, key=lambda name: (not _ends(name, _EMBEDDINGS), name))


def rows_of(info: TensorInfo) -> int:
    """Return how many tokens a tensor has room for: its first size, or of (1, n) the second."""
    if not info.shape:
        return 0
    return info.shape[1] if len(info.shape) == 2 and info.shape[0] == 1 else info.shape[0]


def width_of(info: TensorInfo) -> int:
    """Return the entries of one token's row."""
    return math.prod(info.shape) // max(1, rows_of(info))


def with_rows(info: TensorInfo, rows: int) -> TensorInfo:
    """Return what a tensor becomes with another number of rows."""
    one = len(info.shape) == 2 and info.shape[0] == 1
    return TensorInfo(info.dtype, (1, rows) if one else (rows, *info.shape[1:]))


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return any(name == end or name.endswith("." + end) for end in ends)


def _numbers(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    """Yield each integer of a config and its key, those of its parts (text_config) too."""
    for key, value in config.items():
        if type(value) is int:
            yield key, value
        elif isinstance(value, dict) and depth < _DEEPEST:
            yield from _numbers(value, depth + 1)
