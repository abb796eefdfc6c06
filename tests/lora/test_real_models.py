"""The identities on adapters trained on real small models; needs the models in the cache."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from benchmarks.packages import CACHE
from deltakit.learn.models import quiet
from deltakit.lora import open_adapter
from deltakit.lora.cut import Size
from deltakit.lora.lint import lint
from deltakit.lora.merge import merge_adapters
from deltakit.members import open_members
from deltakit.merging import merge
from tests.lora.test_identity import MODES, rank_map

pytestmark = pytest.mark.slow

IDS = torch.randint(1000, 20000, (2, 12), generator=torch.Generator().manual_seed(0))
# model -> its class, linear modules, a module to keep whole, and its embeddings
MODELS = {
    "all-MiniLM-L6-v2": (
        AutoModel,
        ["query", "value", "output.dense"],
        "pooler",
        "word_embeddings",
    ),
    "SmolLM2-135M-Instruct": (
        AutoModelForCausalLM,
        ["q_proj", "v_proj", "down_proj"],
        "norm",
        "embed_tokens",
    ),
}
KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"layers?.1.*": 2}},
    "alpha_pattern": {"alpha_pattern": {"value": 4, "v_proj": 4}},
    "embedding": {},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "head": {},
    "rows": {"trainable_token_indices": [int(IDS[0, 0]), int(IDS[1, 3])]},
}
CASES = [
    (model, kind)
    for model in MODELS
    for kind in KINDS
    if (model, kind) != ("SmolLM2-135M-Instruct", "lora_bias")  # its layers have no bias
]


def run(model):
    with torch.no_grad():
        found = model.eval()(IDS)
    return found.logits if "logits" in found else found.last_hidden_state


def opened(name, folder, adapter=None):
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MODELS[name][0].from_pretrained(folder, dtype=torch.float32)
        return model if adapter is None else PeftModel.from_pretrained(model, adapter)


def folded(name, folder, adapter):
    """The model after PEFT has added the adapter to its weights: a tied head changes with them."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return opened(name, folder, adapter).merge_and_unload()


def train(name: str, base: Path, kind: str, folder: Path, seed: int) -> Path:
    """Train an adapter for three steps, to bring two texts' states together."""
    _, targets, whole, embeddings = MODELS[name]
    config = {"r": 4, "lora_alpha": 8, "target_modules": targets, **KINDS[kind]}
    if kind == "head":
        config["modules_to_save"] = [whole]
    if kind == "embedding":
        config["target_modules"] = [*targets, embeddings]
    with torch.random.fork_rng(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(opened(name, base), LoraConfig(**config))
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        for step in range(3):
            found = model(IDS.roll(step + seed, dims=1))
            states = found.logits if "logits" in found else found.last_hidden_state
            (states[0] - states[1]).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder)
    return folder


def cached(name):
    base = CACHE / name
    if not base.exists():
        pytest.skip(f"{name} is not in the cache: python -m benchmarks.lora_models fetches it")
    return base


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_merged_and_baked_do_what_the_adapter_does(name, kind, tmp_path):
    base = cached(name)
    a, b = (train(name, base, kind, tmp_path / n, seed) for seed, n in enumerate("ab"))
    plain, wanted = run(opened(name, base)), run(opened(name, base, a))
    effect = float((wanted - plain).abs().max())
    close = 1e-5 * max(1.0, float(wanted.abs().max()))
    assert effect > 30 * close
    for mode in ("cat", "svd"):
        merge_adapters(open_members([str(a), str(b)], [1.0, 0.0]), mode, tmp_path / mode)
        assert (run(opened(name, base, tmp_path / mode)) - wanted).abs().max() <= close
    merge([str(a)], "task_arithmetic", tmp_path / "baked", base=str(base))
    through = folded if kind == "embedding" else opened
    wanted = run(through(name, base, a))
    assert (run(opened(name, tmp_path / "baked")) - wanted).abs().max() <= close
    if kind == "dora":
        return
    both = [str(a), str(b)]
    merge_adapters(open_members(both, [0.5, 0.5]), "cat", tmp_path / "both")
    merge(both, "task_arithmetic", tmp_path / "m", base=str(base), weights=[0.5, 0.5])
    exact = run(opened(name, tmp_path / "m"))
    assert (run(through(name, base, tmp_path / "both")) - exact).abs().max() <= close


@pytest.mark.parametrize("name", MODELS)
def test_weights_one_and_zero_give_the_first_adapter_in_every_mode(name, tmp_path):
    base = cached(name)
    a, b = (train(name, base, "plain", tmp_path / n, seed) for seed, n in enumerate("ab"))
    wanted = run(opened(name, base, a))
    close = 1e-5 * max(1.0, float(wanted.abs().max()))
    for mode, settings in MODES.items():
        both = open_members([str(a), str(b)], [1.0, 0.0])
        if mode == "klf":
            both = [dataclasses.replace(m, importance=rank_map(m, tmp_path)) for m in both]
        merge_adapters(both, mode, tmp_path / mode, settings=settings, size=Size(rank=4))
        assert (run(opened(name, base, tmp_path / mode)) - wanted).abs().max() <= close, mode
        assert not [f for f in lint(open_adapter(tmp_path / mode), "vllm") if f.level == "error"]
