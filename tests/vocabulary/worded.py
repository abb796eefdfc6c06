"""Small models with a tokenizer: a row of the embedding and of the head for each word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.models import write_model

WORDS = ("[unk]", "a", "b", "c", "d")
WIDTH = 3
TENSORS = ("model.embed_tokens.weight", "lm_head.bias", "lm_head.weight")


def tokenizer_json(ids: Mapping[str, int], added: Sequence[str] = ()) -> dict[str, Any]:
    """Return a tokenizer of whole words; `added` of them are added tokens."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {
        "version": "1.0",
        "added_tokens": [{"id": ids[word], "content": word, **flags} for word in added],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for word, number in ids.items() if word not in added},
            "unk_token": "[unk]",
        },
    }


def write_tokenizer(folder: Path, ids: Mapping[str, int], added: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(ids, added)))


def numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def base_tensors(rows: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return an embedding, a head with a bias, and a layer, all from one seed."""
    generator = torch.Generator().manual_seed(0)
    return {
        "model.embed_tokens.weight": torch.randn(rows, WIDTH, generator=generator).to(dtype),
        "lm_head.weight": torch.randn(rows, WIDTH, generator=generator).to(dtype),
        "lm_head.bias": torch.randn(rows, generator=generator).to(dtype),
        "layer.0.weight": torch.randn(WIDTH, WIDTH, generator=generator).to(dtype),
    }


def write_worded(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    ids: Mapping[str, int],
    added: Sequence[str] = (),
    **config: Any,
) -> Path:
    """Write a model, its config and its tokenizer."""
    rows = len(tensors["lm_head.bias"])
    write_model(folder, tensors, config={"vocab_size": rows, "eos_token_id": 0, **config})
    write_tokenizer(folder, ids, added)
    return folder


def moved(
    tensors: Mapping[str, torch.Tensor], order: Sequence[int], fill: float = 0.0
) -> dict[str, torch.Tensor]:
    """Return the tensors with row order[i] where row i was to be; -1 is a row of `fill`."""
    found = {}
    for name, values in tensors.items():
        if name not in TENSORS:
            found[name] = values
            continue
        rows = [torch.full_like(values[0], fill) if at < 0 else values[at] for at in order]
        found[name] = torch.stack(rows)
    return found
