"""What a parameter's name says of it: its layer, and what kind of module it belongs to."""

from __future__ import annotations

import re

KINDS = [
    "embedding",
    "attention q",
    "attention k",
    "attention v",
    "attention qkv",
    "attention o",
    "attention",
    "mlp",
    "norm",
    "bias",
    "head",
    "other",
]

_LAYER = re.compile(r"(?:^|\.)((?:[^.]+\.)*?)(?:layers|layer|h|blocks|block|resblocks)\.(\d+)\.")
_NORM = re.compile(r"norm|^ln(_|\d|$)|^bn\d*$")
_EMBEDDING = re.compile(r"embed|^(wte|wpe|shared|relative_attention_bias)$")
_HEAD = re.compile(r"^(lm_head|head|classifier|score|embed_out|qa_outputs|cls|predictions)$")
_ATTENTION = re.compile(r"attn|attention$")
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|intermediate|densereludense|moe|experts|^(fc\d|c_fc|lin\d|wi_?\d?)$"
)
_PROJECTIONS = {
    "attention q": re.compile(r"^(q|wq|to_q|query|q_proj|q_lin|q_a_proj|q_b_proj)$"),
    "attention k": re.compile(r"^(k|wk|to_k|key|k_proj|k_lin)$"),
    "attention v": re.compile(r"^(v|wv|to_v|value|v_proj|v_lin)$"),
    "attention qkv": re.compile(r"^(qkv|wqkv|qkv_proj|query_key_value|c_attn|in_proj.*)$"),
    "attention o": re.compile(r"^(o|wo|to_out|o_proj|out_proj|out_lin|proj|c_proj|dense|output)$"),
}


def layer(name: str) -> tuple[str, int] | None:
    """Return the stack that a parameter is in and the number of its layer, None outside of layers.

    >>> layer("model.layers.3.mlp.up_proj.weight"), layer("lm_head.weight")
    (('model', 3), None)
    """
    found = _LAYER.search(name)
    return (found[1].rstrip("."), int(found[2])) if found else None


def kind(name: str) -> str:
    """Return the kind of module, one of KINDS, judged by the parts of the name.

    >>> kind("encoder.layer.0.attention.self.query.weight"), kind("h.0.mlp.c_proj.weight")
    ('attention q', 'mlp')

    A norm's bias counts as norm, an embedding's as embedding; other biases are their own kind.
    """
    parts = name.lower().split(".")
    module = parts[:-1] if parts[-1] in ("weight", "bias") else parts
    if any(_NORM.search(part) for part in module):
        return "norm"
    if any(_HEAD.search(part) for part in module):
        return "head"
    if any(_EMBEDDING.search(part) for part in module):
        return "embedding"
    if parts[-1] == "bias" or parts[-1].endswith("_bias"):
        return "bias"
    if any(_ATTENTION.search(part) for part in module):
        return _projection(module)
    if any(_MLP.search(part) for part in module) or (layer(name) and module[-2:-1] == ["output"]):
        return "mlp"  # BERT calls the second half of it layer.3.output.dense
    return "other"


def _projection(module: list[str]) -> str:
    for part in reversed(module):
        for found, pattern in _PROJECTIONS.items():
            if pattern.search(part):
                return found
    return "attention"
