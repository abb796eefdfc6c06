"""Real small models, and adapters trained on them, for tests that take longer."""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from benchmarks.lora_models import smollm2
from benchmarks.model import base_folder
from benchmarks.packages import CACHE
from deltakit.learn.models import quiet

IDS = torch.randint(1000, 20000, (2, 12), generator=torch.Generator().manual_seed(0))
ROWS = [int(IDS[0, 0]), int(IDS[1, 3])]


@dataclass(frozen=True)
class RealModel:
    """A model that packages carry, and what of it is adapted."""

    auto: Any
    targets: list[str]
    whole: str  # a module to keep whole
    embeddings: str
    layers: list[int]  # some of them: what an element-wise mode costs goes with the modules


MODELS = {
    "all-MiniLM-L6-v2": RealModel(
        AutoModel, ["query", "value", "output.dense"], "pooler", "word_embeddings", [0, 5]
    ),
}
for name, layers in (("SmolLM2", [0, 1, 2]), ("SmolLM2-135M-Instruct", [0, 1, 29])):
    MODELS[name] = RealModel(
        AutoModelForCausalLM, ["q_proj", "v_proj", "down_proj"], "norm", "embed_tokens", layers
    )
# What PEFT is told for each row of the table; the rest of it is in `_config`.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bfloat16": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"layers?.1.*": 2}},
    "alpha_pattern": {"alpha_pattern": {"value": 4, "v_proj": 4}},
    "both_patterns": {
        "rank_pattern": {"value": 6, "v_proj": 6},
        "alpha_pattern": {"layers?.1.*": 3},
        "use_rslora": True,
    },
    "embedding": {},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "bias_all": {"bias": "all"},
    "bias_lora_only": {"bias": "lora_only"},
    "head": {},
    "rows": {"trainable_token_indices": ROWS},
}
WITH_BIAS = ("lora_bias", "bias_all", "bias_lora_only")
# What MiniLM does not show: tied ends, a head, and two patterns at once, under other names.
SHORT = ("both_patterns", "embedding", "dora", "head", "rows")
# SmolLM2's layers have no biases to add to, or to train.
CASES = [
    (model, kind)
    for model in MODELS
    for kind in KINDS
    if not (model.startswith("SmolLM2") and kind in WITH_BIAS)
    and (model != "SmolLM2" or kind in SHORT)
]


def base_of(name: str) -> Path:
    """Return a model's folder, fetched where it is missing; the large one only from the cache.

    "SmolLM2" is three of its layers, the first, the second and the last, with its embeddings.
    """
    if name == "all-MiniLM-L6-v2":
        return base_folder()
    if name == "SmolLM2":
        return smollm2([0, 1, 29])
    if not (CACHE / name).exists():
        pytest.skip(f"{name} is not in the cache: python -m benchmarks.lora_models fetches it")
    return CACHE / name


@functools.cache
def _base(name: str, folder: Path) -> nn.Module:
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[name].auto.from_pretrained(folder, dtype=torch.float32)


def loaded(name: str, adapter: Path | None = None) -> nn.Module:
    """Return the model in memory, with an adapter loaded into it by PEFT."""
    model = copy.deepcopy(_base(name, base_of(name)))
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model if adapter is None else PeftModel.from_pretrained(model, adapter)


def folded(name: str, adapter: Path) -> nn.Module:
    """Return the model after PEFT added the adapter to its weights: a tied head changes too."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loaded(name, adapter).merge_and_unload()


def baked(name: str, folder: Path) -> nn.Module:
    """Return a model that deltakit wrote."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[name].auto.from_pretrained(folder, dtype=torch.float32)


def run(model: nn.Module) -> Tensor:
    """Return what a model makes of two texts: (2, 12, width)."""
    with torch.no_grad():
        found = model.eval()(IDS)
    return found.logits if "logits" in found else found.last_hidden_state


def train(name: str, kind: str, folder: Path, seed: int) -> Path:
    """Train an adapter for three steps, to bring two texts' states together."""
    with torch.random.fork_rng(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(loaded(name), LoraConfig(**_config(name, kind)))
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        for step in range(3):
            found = model(IDS.roll(step + seed, dims=1))
            states = found.logits if "logits" in found else found.last_hidden_state
            (states[0] - states[1]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
    if kind == "bfloat16":
        file = folder / "adapter_model.safetensors"
        tensors = {key: value.bfloat16() for key, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def _config(name: str, kind: str) -> dict[str, Any]:
    model = MODELS[name]
    found = {"r": 4, "lora_alpha": 8, "target_modules": model.targets, **KINDS[kind]}
    if kind == "embedding":  # has no layer, so no choice of layers finds it
        found["target_modules"] = [model.targets[0], model.embeddings]
    elif kind != "plain":
        found["layers_to_transform"] = model.layers
    if kind == "head":
        found["modules_to_save"] = [model.whole]
    return found
