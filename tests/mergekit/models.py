"""A small Llama and fine-tunes of it, in folders that both programs read."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.engine.merging import tune
from tests.models import write_model
from tests.vocabulary.worded import write_tokenizer

LAYERS, HIDDEN, INNER, WORDS = 6, 16, 24, 32

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": LAYERS,
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


PLAIN = tuple(f"w{number}" for number in range(WORDS))
# The words of models with a tokenizer, of which the first 32 are the model's and the rest added.
WORDED = {
    "plain": PLAIN,
    "chat": (*PLAIN, "<|im_start|>", "<|im_end|>"),
    "more": (*(word for word in reversed(PLAIN) if word != "w9"), "<|im_end|>", "<own>"),
}


def tensors(words: int = WORDS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    found = {"model.embed_tokens.weight": some(words, HIDDEN)}
    for number in range(LAYERS):
        layer = f"model.layers.{number}."
        for part in "qkvo":
            found[f"{layer}self_attn.{part}_proj.weight"] = some(HIDDEN, HIDDEN)
        found[f"{layer}mlp.gate_proj.weight"] = some(INNER, HIDDEN)
        found[f"{layer}mlp.up_proj.weight"] = some(INNER, HIDDEN)
        found[f"{layer}mlp.down_proj.weight"] = some(HIDDEN, INNER)
        found[f"{layer}input_layernorm.weight"] = some(HIDDEN)
        found[f"{layer}post_attention_layernorm.weight"] = some(HIDDEN)
    found["model.norm.weight"] = some(HIDDEN)
    found["lm_head.weight"] = some(words, HIDDEN)
    return found


def write_llamas(folder: Path) -> None:
    """Write base, a and b, whose deltas have a part in common."""
    base = tensors()
    write_model(folder / "base", base, config=CONFIG)
    common = tune(base, 9)
    for seed, name in enumerate(("a", "b"), 1):
        write_model(folder / name, tune(common, seed), config=CONFIG)


def write_worded_llamas(folder: Path) -> None:
    """Write models with tokenizers: plain, and chat and more, which have other tokens."""
    for seed, (name, words) in enumerate(WORDED.items(), 11):
        ids = {word: number for number, word in enumerate(words)}
        found = tune(tensors(len(words)), seed)
        write_model(folder / name, found, config={**CONFIG, "vocab_size": len(words)})
        write_tokenizer(folder / name, ids, [word for word in words if word not in PLAIN])
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings))
