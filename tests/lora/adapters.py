"""Adapters of every kind that PEFT writes, trained for a step or two on tiny models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from deltakit.learn.models import quiet

IDS = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(1))


def llama(tied: bool = False) -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": True}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, tie_word_embeddings=tied, **sizes, **heads))


def tied_llama() -> nn.Module:
    return llama(tied=True)


def gpt2() -> nn.Module:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=20, **ends)
    )


def clip() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    ends = {"bos_token_id": 0, "eos_token_id": 2}
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=40, num_attention_heads=2, max_position_embeddings=20, **sizes, **ends
        )
    )


def opt() -> nn.Module:
    sizes = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1, "word_embed_proj_dim": 16}
    return OPTForCausalLM(
        OPTConfig(vocab_size=40, num_attention_heads=2, max_position_embeddings=20, **sizes)
    )


ATTENTION = ["q_proj", "v_proj", "down_proj"]
# name -> the model, and what PEFT is told
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "plain": (llama, {"r": 4, "target_modules": ATTENTION}),
    "rslora": (llama, {"r": 4, "target_modules": ATTENTION, "use_rslora": True}),
    "patterns": (
        llama,
        {
            "r": 4,
            "target_modules": ATTENTION,
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "v_.*": 3},
            "alpha_pattern": {"down_proj": 3},
        },
    ),
    "embedding": (llama, {"r": 4, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "tied": (tied_llama, {"r": 4, "target_modules": ["q_proj"]}),
    "tied_embedding": (
        tied_llama,
        {
            "r": 4,
            "lora_alpha": 0.05,
            "target_modules": ["embed_tokens"],
            "ensure_weight_tying": True,
        },
    ),
    "dora": (llama, {"r": 4, "target_modules": ["q_proj", "o_proj"], "use_dora": True}),
    "dora_embedding": (llama, {"r": 4, "target_modules": ["embed_tokens"], "use_dora": True}),
    "lora_bias": (llama, {"r": 4, "target_modules": ["q_proj"], "lora_bias": True}),
    "fan_in_fan_out": (
        gpt2,
        {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "bias": "all"},
    ),
    "dora_fan_in_fan_out": (
        gpt2,
        {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "head": (llama, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "rows": (llama, {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [1, 3]}),
    "rows_of_two": (
        llama,
        {
            "r": 4,
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"embed_tokens": [1, 3], "lm_head": [2]},
        },
    ),
}
DORA = [kind for kind in KINDS if kind.startswith("dora")]


def write_base(folder: Path, make: Callable[[], nn.Module] = llama, **options: Any) -> Path:
    """Write a seeded tiny model."""
    with torch.random.fork_rng(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        make().save_pretrained(folder, **options)
    return folder


def write_adapter(folder: Path, base: Path, seed: int, **config: Any) -> Path:
    """Write an adapter to the base, trained for two steps from a random start."""
    with torch.random.fork_rng(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        model = get_peft_model(model, LoraConfig(init_lora_weights=False, **config))
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(2):
            model(IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
    return folder


def output(base: Path, adapter: Path | None = None) -> Tensor:
    """Return the logits of a model folder, or of a model without a head its last states.

    adapter: loaded into it by PEFT.
    """
    config = (base / "config.json").read_text()
    headless = not any(head in config for head in ("ForCausalLM", "LMHeadModel"))
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = (AutoModel if headless else AutoModelForCausalLM).from_pretrained(base)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        return model.eval()(IDS)[0]
