"""A GGUF file written by hand: its weights come out plain, in the order of transformers."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.gguf import _NAMES, write_llama
from deltakit.errors import BadFile

FIELDS = {
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e4,
    "llama.vocab_size": 2,
}
SHAPES = {"attn_norm": (32,), "ffn_norm": (32,), "attn_k": (8, 32), "attn_q": (16, 32)}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path, layers=2, version=3):
    """Write counted float32 weights; the embedding as Q8_0, the first ffn_up as Q4_1."""
    tensors = {"token_embd": (2, 32), "output_norm": (32,)}
    tensors |= {f"blk.{n}.{a}": SHAPES.get(a, (32, 32)) for n in range(layers) for a in _NAMES}
    infos, data, plain = b"", b"", {}
    for number, (name, shape) in enumerate(tensors.items()):
        values = np.arange(np.prod(shape), dtype="f4").reshape(shape) + 1000 * number
        raw, kind = values.tobytes(), 0
        if name == "token_embd":
            raw, kind = b"".join(np.float16(s).tobytes() + bytes(range(32)) for s in (0.5, 2.0)), 8
            values = np.array([[0.5], [2.0]], dtype="f4") * np.arange(32)
        if name == "blk.0.ffn_up":
            packed = bytes(low | (15 - low) << 4 for low in range(16))
            raw, kind = (np.float16([0.25, -1.0]).tobytes() + packed) * 32, 3
            row = np.r_[np.arange(16), 15 - np.arange(16)] * 0.25 - 1.0
            values = np.tile(row, (32, 1))
        data += b"\0" * (-len(data) % 32)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        infos += text(f"{name}.weight") + dims + struct.pack("<IQ", kind, len(data))
        data += raw
        plain[name] = values
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(FIELDS) + 1)
    for key, value in FIELDS.items():
        is_float = isinstance(value, float)
        head += text(key) + struct.pack("<If" if is_float else "<II", 6 if is_float else 4, value)
    head += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    head += infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return plain


def test_the_layers_asked_for_come_out_plain(tmp_path):
    plain = write_gguf(tmp_path / "m.gguf")
    write_llama(tmp_path / "m.gguf", tmp_path / "m", [1, 0])
    found = load_file(tmp_path / "m" / "model.safetensors")
    np.testing.assert_array_equal(found["model.embed_tokens.weight"], plain["token_embd"])
    for new, old in ((0, 1), (1, 0)):
        for short, name in _NAMES.items():
            if short not in ("attn_q", "attn_k"):
                values = found[f"model.layers.{new}.{name}.weight"]
                np.testing.assert_array_equal(values, plain[f"blk.{old}.{short}"])
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert config["num_key_value_heads"] == 2


def test_rows_of_a_head_that_lie_in_turns_lie_half_by_half(tmp_path):
    plain = write_gguf(tmp_path / "m.gguf", layers=1)
    write_llama(tmp_path / "m.gguf", tmp_path / "m", [0])
    found = load_file(tmp_path / "m" / "model.safetensors")
    order = [0, 2, 1, 3]  # of each head's four rows
    for short in ("attn_q", "attn_k"):
        values = plain[f"blk.0.{short}"]
        wanted = np.concatenate([head[order] for head in np.split(values, len(values) // 4)])
        np.testing.assert_array_equal(found[f"model.layers.0.{_NAMES[short]}.weight"], wanted)


def test_another_version_is_refused(tmp_path):
    write_gguf(tmp_path / "m.gguf", version=2)
    with pytest.raises(BadFile, match="version 3"):
        write_llama(tmp_path / "m.gguf", tmp_path / "m", [0])
