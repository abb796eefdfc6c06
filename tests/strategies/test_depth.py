"""Where parameters outside of layers lie."""

import pytest

from deltakit.strategies import depths

LAYERS = ["h.0.w", "h.1.w", "h.2.w"]


@pytest.mark.parametrize(
    "name",
    ["shared.weight", "model.shared.weight", "embed_tokens.weight", "gpt_neox.embed_in.weight",
     "transformer.wpe.weight", "vit.embeddings.cls_token", "embeddings.LayerNorm.bias"],
)  # fmt: skip
def test_an_embedding_lies_before_the_layers(name: str) -> None:
    assert depths([*LAYERS, name])[name] == 0.0


@pytest.mark.parametrize(
    "name",
    ["lm_head.weight", "embed_out.weight", "embed_out.bias", "cls.predictions.decoder.weight",
     "norm.weight", "classifier.weight", "final_logits_bias"],
)  # fmt: skip
def test_what_comes_after_the_layers_lies_after_them(name: str) -> None:
    assert depths([*LAYERS, name])[name] == 1.0
