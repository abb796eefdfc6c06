"""Names of several families of models: the layer and the kind that they tell."""

import pytest

from deltakit.inspect.naming import KINDS, kind, layer

CASES = [
    ("model.embed_tokens.weight", None, "embedding"),
    ("model.layers.3.self_attn.q_proj.weight", ("model", 3), "attention q"),
    ("model.layers.31.self_attn.k_proj.bias", ("model", 31), "bias"),
    ("model.layers.0.self_attn.o_proj.weight", ("model", 0), "attention o"),
    ("model.layers.0.self_attn.q_norm.weight", ("model", 0), "norm"),
    ("model.layers.0.post_attention_layernorm.weight", ("model", 0), "norm"),
    ("model.layers.0.mlp.down_proj.weight", ("model", 0), "mlp"),
    ("model.layers.0.block_sparse_moe.experts.5.w1.weight", ("model", 0), "mlp"),
    ("model.norm.weight", None, "norm"),
    ("lm_head.weight", None, "head"),
    ("embeddings.word_embeddings.weight", None, "embedding"),
    ("embeddings.LayerNorm.bias", None, "norm"),
    ("bert.encoder.layer.11.attention.self.query.weight", ("bert.encoder", 11), "attention q"),
    ("encoder.layer.0.attention.self.value.bias", ("encoder", 0), "bias"),
    ("encoder.layer.0.attention.output.dense.weight", ("encoder", 0), "attention o"),
    ("encoder.layer.0.attention.output.LayerNorm.weight", ("encoder", 0), "norm"),
    ("encoder.layer.0.intermediate.dense.weight", ("encoder", 0), "mlp"),
    ("encoder.layer.0.output.dense.weight", ("encoder", 0), "mlp"),
    ("pooler.dense.weight", None, "other"),
    ("classifier.weight", None, "head"),
    ("transformer.layer.2.attention.q_lin.weight", ("transformer", 2), "attention q"),
    ("transformer.layer.2.ffn.lin1.weight", ("transformer", 2), "mlp"),
    ("h.3.attn.c_attn.weight", ("", 3), "attention qkv"),
    ("transformer.h.3.attn.c_proj.weight", ("transformer", 3), "attention o"),
    ("transformer.h.3.mlp.c_proj.weight", ("transformer", 3), "mlp"),
    ("transformer.h.3.ln_1.weight", ("transformer", 3), "norm"),
    ("transformer.wte.weight", None, "embedding"),
    ("gpt_neox.layers.1.attention.query_key_value.weight", ("gpt_neox", 1), "attention qkv"),
    ("gpt_neox.layers.1.attention.dense.weight", ("gpt_neox", 1), "attention o"),
    ("embed_out.weight", None, "head"),
    ("encoder.block.3.layer.0.SelfAttention.k.weight", ("encoder", 3), "attention k"),
    ("decoder.block.3.layer.2.DenseReluDense.wi.weight", ("decoder", 3), "mlp"),
    ("decoder.block.3.layer.1.EncDecAttention.o.weight", ("decoder", 3), "attention o"),
    ("encoder.block.3.layer.1.layer_norm.weight", ("encoder", 3), "norm"),
    ("shared.weight", None, "embedding"),
    ("blocks.7.attn.qkv.weight", ("", 7), "attention qkv"),
    ("blocks.7.attn.proj.weight", ("", 7), "attention o"),
    ("blocks.7.mlp.fc1.weight", ("", 7), "mlp"),
    ("vision_model.encoder.layers.2.layer_norm1.weight", ("vision_model.encoder", 2), "norm"),
    ("w", None, "other"),
]


@pytest.mark.parametrize(("name", "place", "what"), CASES)
def test_a_name_tells_layer_and_kind(name: str, place: tuple[str, int] | None, what: str):
    assert layer(name) == place
    assert kind(name) == what


def test_the_cases_show_every_kind_with_a_pattern_of_its_own():
    assert set(KINDS) - {what for _, _, what in CASES} == {"attention v", "attention"}
