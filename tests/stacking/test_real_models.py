"""A stacked model is one that transformers loads, and computes layer after layer as it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from deltakit.engine import execute
from deltakit.errors import BadValue
from deltakit.merging import plan_recipe
from deltakit.recipe import Recipe, Rule, Slice, Task

SMALL = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 32, "num_hidden_layers": 4,
         "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
MODELS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SMALL),
    "tied": transformers.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen2": transformers.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=2, max_window_layers=4
    ),
    "gemma3": transformers.Gemma3TextConfig(**SMALL, sliding_window=2),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=4, n_head=2, vocab_size=32, n_positions=32),
}


@pytest.fixture
def here(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for seed, name in enumerate(("base", "a")):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(MODELS[request.param])
        model.save_pretrained(tmp_path / name)
    return tmp_path


def stacked(here: Path, *slices: Slice, **more: Any) -> Any:
    tasks = [Task("a", str(here / "a"))]
    recipe = Recipe(base=str(here / "base"), tasks=tasks, slices=list(slices), **more)
    execute(plan_recipe(recipe), here / "out")
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        here / "out", output_loading_info=True
    )
    assert not any(told.values()), told
    return model.eval()


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


IDS = torch.arange(6)[None]


@pytest.mark.parametrize("here", MODELS, indirect=True)
def test_layers_that_add_nothing_leave_the_model_as_it_was(here: Path) -> None:
    last = ["*.o_proj.weight", "*.down_proj.weight", "*.c_proj.*"]
    slices = (
        Slice(layers="0-3", take="base"),
        Slice(layers=3, take="a"),
        Slice(layers=3, take="base"),
    )
    rules = [Rule(match=last, layers="4-5", factor=0.0)]
    model = stacked(here, *slices, rules=rules)
    assert model.config.num_hidden_layers == 6
    with torch.no_grad():
        wanted, found = loaded(here / "base")(IDS).logits, model(IDS).logits
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("here", MODELS, indirect=True)
def test_the_same_layers_from_two_slices_are_the_model(here: Path) -> None:
    model = stacked(here, Slice(layers="0-1", take="a"), Slice(layers="2-3", take="a"))
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, loaded(here / "a")(IDS).logits)


@pytest.mark.parametrize("here", ["gemma3"], indirect=True)
def test_a_layers_own_kind_of_attention_goes_with_it(here: Path) -> None:
    kinds = loaded(here / "base").config.layer_types
    model = stacked(here, Slice(layers="1-3", take="base"), Slice(layers="0-1", take="a"))
    assert model.config.layer_types == [kinds[n] for n in (1, 2, 3, 0, 1)]


def test_an_encoder_and_a_decoder_are_refused(tmp_path: Path) -> None:
    small = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 16}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**small)).save_pretrained(
        tmp_path / "base"
    )
    recipe = Recipe(base=str(tmp_path / "base"), slices=[Slice(layers=0, take="base")])
    with pytest.raises(BadValue, match="one list of layers"):
        plan_recipe(recipe)
