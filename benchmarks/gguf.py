"""A Llama out of a GGUF file, its weights plain again: enough to have one real model in tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from deltakit.errors import BadFile

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ROWS = 32  # numbers of a quantised block
_ALIGNED = 32  # bytes
_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_llama(gguf: Path, folder: Path, layers: Sequence[int]) -> None:
    """Write some layers of a Llama, in this order, as a model folder of float32.

    Reads F32, Q8_0 and Q4_1; the format: github.com/ggml-org/ggml, docs/gguf.md.
    """
    from safetensors.numpy import save_file

    with gguf.open("rb") as file:
        fields, places = _header(file)
        heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
        wanted = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
        for number, layer in enumerate(layers):
            wanted |= {f"blk.{layer}.{a}": f"model.layers.{number}.{b}" for a, b in _NAMES.items()}
        tensors = {}
        for short, name in wanted.items():
            values = _plain(file, *places[f"{short}.weight"])
            if name.endswith(("q_proj", "k_proj")):  # of each head, halves lie in turns there
                count = heads[name.endswith("k_proj")]
                halves = values.reshape(count, -1, 2, values.shape[1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
            tensors[f"{name}.weight"] = np.ascontiguousarray(values)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(fields, len(layers)), indent=2))


def _config(fields: dict[str, Any], layers: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": layers,
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields["llama.rope.freq_base"],
        "vocab_size": fields["llama.vocab_size"],
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _header(file: BinaryIO) -> tuple[dict[str, Any], dict[str, tuple[list[int], int, int]]]:
    """Return the fields, and of each tensor its shape, its kind and where its bytes begin."""
    if file.read(4) != b"GGUF" or _read(file, "I") != 3:
        raise BadFile("not a GGUF file of version 3", where=file.name)
    tensors, count = _read(file, "Q"), _read(file, "Q")
    fields = {_text(file): _value(file, _read(file, "I")) for _ in range(count)}
    found = {}
    for _ in range(tensors):
        name, dims = _text(file), _read(file, "I")
        shape = [_read(file, "Q") for _ in range(dims)][::-1]
        found[name] = shape, _read(file, "I"), _read(file, "Q")
    start = -(-file.tell() // _ALIGNED) * _ALIGNED
    return fields, {name: (s, kind, start + at) for name, (s, kind, at) in found.items()}


def _read(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_read(file, "Q")).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _read(file, "I"), _read(file, "Q")
        return [_value(file, inner) for _ in range(count)]
    return _read(file, _SCALARS[kind])


def _plain(file: BinaryIO, shape: list[int], kind: int, start: int) -> np.ndarray:
    """Return a tensor in float32."""
    numel = int(np.prod(shape))
    file.seek(start)
    if kind == 0:
        return np.frombuffer(file.read(4 * numel), "<f4").reshape(shape)
    if kind not in (3, 8):
        raise BadFile(f"a GGUF tensor of kind {kind}", where=file.name, expected="F32, Q4_1, Q8_0")
    nbytes = 20 if kind == 3 else 34  # of a block: scale, offset and 32 numbers
    blocks = np.frombuffer(file.read(numel // _ROWS * nbytes), "u1").reshape(-1, nbytes)
    scale = blocks[:, :2].copy().view("<f2").astype("f4")
    if kind == 8:
        return (blocks[:, 2:].view("i1") * scale).reshape(shape)
    offset = blocks[:, 2:4].copy().view("<f2").astype("f4")
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return (halves * scale + offset).reshape(shape)
