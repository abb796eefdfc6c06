"""Tied tensors: one weight that some checkpoints store under two names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource

# By the end of the name; the first that exists is the one that stays.
_EMBEDDINGS = (
    "shared.weight",
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)
_HEADS = ("lm_head.weight", "predictions.decoder.weight", "embed_out.weight")


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Tell whether a config ties the head to the embeddings, itself or of its text model."""
    text = config.get("text_config")
    tied = config.get("tie_word_embeddings")
    if tied is None and isinstance(text, dict):
        tied = text.get("tie_word_embeddings")
    return tied is True


def is_embedding(name: str) -> bool:
    """Tell whether a tensor's name is that of a model's input embedding."""
    return any(_ends(name, end) for end in _EMBEDDINGS)


def is_head(name: str) -> bool:
    """Tell whether a tensor's name is that of a head that may be tied to the embedding."""
    return any(_ends(name, end) for end in _HEADS)


def tied_copies(source: TensorSource, config: Mapping[str, Any]) -> dict[str, str]:
    """Return copy -> original for the embeddings that a config ties and a checkpoint repeats.

    A copy has the original's dtype, shape and bytes; one that differs is a weight of its own.
    Data is read only where both names exist.
    """
    if not ties_embeddings(config):
        return {}
    found = _embeddings(source.infos)
    if not found:
        return {}
    original = found[0]
    heads = [name for end in _HEADS for name in sorted(source.infos) if _ends(name, end)]
    alike = [n for n in found[1:] + heads if source.infos[n] == source.infos[original]]
    if not alike:
        return {}
    digest = source.digest(original)
    return {name: original for name in alike if source.digest(name) == digest}


def held_as(name: str, infos: Mapping[str, TensorInfo]) -> str:
    """Return the name under which a tensor is seen among `infos`, from which copies are left out.

    It is its own, or that of the embedding which it can only have been a copy of.
    """
    found = _embeddings(infos)
    is_copy = name not in infos and (is_head(name) or is_embedding(name))
    return found[0] if is_copy and found else name


def _embeddings(infos: Mapping[str, TensorInfo]) -> list[str]:
    return [name for end in _EMBEDDINGS for name in sorted(infos) if _ends(name, end)]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)
