"""What adapters keep whole is merged by the same weights, or refused; it is never dropped."""

import json

import pytest
import torch

from deltakit.errors import AlreadyThere, BadValue, NonFinite, ShapeMismatch
from deltakit.lora import flat, open_adapter
from deltakit.lora.merge import merge_adapters
from deltakit.lora.union import Member
from deltakit.tensors.source import MemoryTensors
from tests.lora.folders import factors, write_folder


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


HEAD = {"a": random(3, 4, seed=1), "b": random(3, 4, seed=2)}
BASE = MemoryTensors({"head.weight": random(3, 4), "e.weight": random(5, 4, seed=3)})


@pytest.fixture
def heads(tmp_path):
    for seed, name in enumerate("ab"):
        tensors = {**factors("q", seed), "head.weight": HEAD[name]}
        write_folder(tmp_path / name, tensors, r=2, modules_to_save=["head"])
    write_folder(tmp_path / "c", factors("q", 3), r=2)
    return tmp_path


def merged(root, weights, mode="cat", base=None, **options):
    given = [Member(name, open_adapter(root / name), w) for name, w in weights.items()]
    merge_adapters(given, mode, root / "m", base=base, **options)
    return open_adapter(root / "m")


def head(adapter):
    return adapter.read(adapter.whole["head.weight"])


def test_weights_that_add_up_to_one_need_no_base(heads):
    found = merged(heads, {"a": 1.5, "b": -0.5})
    torch.testing.assert_close(head(found), 1.5 * HEAD["a"] - 0.5 * HEAD["b"])
    assert found.config.modules_to_save == ["head"]


def test_other_weights_need_the_base_and_take_it(heads):
    with pytest.raises(BadValue, match=r"head.weight(.|\n)*--base"):
        merged(heads, {"a": 1.0, "b": 1.0})
    base = BASE["head.weight"]
    expected = base + (HEAD["a"] - base) + (HEAD["b"] - base)
    torch.testing.assert_close(head(merged(heads, {"a": 1.0, "b": 1.0}, base=BASE)), expected)


def test_a_head_larger_than_a_block_is_merged_in_blocks(heads, monkeypatch):
    monkeypatch.setattr(flat, "BLOCK", 5)
    found = merged(heads, {"a": 1.0, "b": 0.5}, base=BASE)
    torch.testing.assert_close(head(found), HEAD["a"] + 0.5 * (HEAD["b"] - BASE["head.weight"]))


@pytest.mark.parametrize("name", ["head.weight", "e.weight"])
def test_a_base_of_another_shape_is_refused(heads, name):
    base = MemoryTensors({name: random(3, 5)})
    key = "e.token_adapter.trainable_tokens_delta"
    rows = {"trainable_token_indices": [1, 2]}
    write_folder(heads / "r", {**factors("q", 1), key: random(2, 4)}, r=2, **rows)
    with pytest.raises(ShapeMismatch, match="another shape"):
        merged(heads, {"a": 0.5} if name == "head.weight" else {"r": 0.5}, base=base)
    base = MemoryTensors({"e.weight": random(2, 4)})
    with pytest.raises(ShapeMismatch, match="another shape"):
        merged(heads, {"r": 0.5}, base=base)
    assert not (heads / "m").exists()


def test_an_adapter_without_a_head_leaves_the_others(heads):
    torch.testing.assert_close(head(merged(heads, {"a": 1.0, "c": 0.5})), HEAD["a"])


def test_a_mode_that_averages_averages_heads(heads):
    found = merged(heads, {"a": 3.0, "b": 1.0}, mode="average")
    torch.testing.assert_close(head(found), 0.75 * HEAD["a"] + 0.25 * HEAD["b"])


def test_heads_of_two_shapes_are_refused(heads):
    tensors = {**factors("q", 1), "head.weight": random(2, 4)}
    write_folder(heads / "d", tensors, r=2, modules_to_save=["head"])
    with pytest.raises(ShapeMismatch, match="another shape"):
        merged(heads, {"a": 0.5, "d": 0.5})


def test_rows_of_different_tokens_are_joined(tmp_path):
    key = "e.token_adapter.trainable_tokens_delta"
    rows = {"a": random(2, 4, seed=4), "b": random(2, 4, seed=5)}
    for name, indices in (("a", [3, 1]), ("b", [1, 4])):
        tensors = {**factors("q", 1), key: rows[name]}
        write_folder(tmp_path / name, tensors, r=2, trainable_token_indices=indices)
    with pytest.raises(BadValue, match="--base"):
        merged(tmp_path, {"a": 0.5, "b": 0.5})
    found = merged(tmp_path, {"a": 0.5, "b": 0.5}, base=BASE)
    kept = found.rows["e.weight"]
    assert kept.indices == (1, 3, 4)
    base = BASE["e.weight"]
    expected = torch.stack(
        [
            0.5 * rows["a"][1] + 0.5 * rows["b"][0],
            0.5 * rows["a"][0] + 0.5 * base[3],
            0.5 * rows["b"][1] + 0.5 * base[4],
        ]
    )
    torch.testing.assert_close(found.read(kept.tensor), expected)


def test_lora_biases_add_up_with_their_scalings(tmp_path):
    biases = {"a": random(6, seed=6), "b": random(6, seed=7)}
    for seed, name in enumerate("ab"):
        tensors = {**factors("q", seed), "q.lora_B.bias": biases[name]}
        write_folder(tmp_path / name, tensors, r=2, lora_alpha=3, lora_bias=True)
    write_folder(tmp_path / "c", factors("k", 3), r=2)
    found = merged(tmp_path, {"a": 1.0, "b": -1.0, "c": 1.0})
    torch.testing.assert_close(found.bias("q"), 1.5 * (biases["a"] - biases["b"]))
    assert not found.bias("k").any()


def test_the_record_stands_beside_and_in_the_file(heads):
    found = merged(heads, {"a": 0.5, "b": 0.5})
    table = json.loads((heads / "m" / "deltakit_lora.json").read_text())
    inside = json.loads(found.source.shards[0].header.metadata["deltakit_lora"])
    assert table["record"] == inside
    assert {a["name"]: a["weight"] for a in inside["adapters"]} == {"a": 0.5, "b": 0.5}
    assert found.source.shards[0].header.metadata["format"] == "pt"
    assert table["check"]["kept"] == pytest.approx(1.0)


def test_what_does_not_fit_the_dtype_is_refused_and_nothing_is_left(tmp_path):
    tensors = {name: value * 1e5 for name, value in factors("q", 1).items()}
    write_folder(tmp_path / "a", tensors, r=2)
    with pytest.raises(NonFinite, match=r"overflows torch\.float16"):
        merged(tmp_path, {"a": 1.0}, dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_only_what_deltakit_wrote_is_replaced(heads):
    merged(heads, {"a": 1.0})
    with pytest.raises(AlreadyThere, match="exists already"):
        merged(heads, {"b": 1.0})
    torch.testing.assert_close(head(merged(heads, {"b": 1.0}, overwrite=True)), HEAD["b"])
    given = [Member("c", open_adapter(heads / "c"))]
    with pytest.raises(AlreadyThere, match="not ours"):
        merge_adapters(given, "cat", heads / "a", overwrite=True)
    with pytest.raises(BadValue, match="replace an input"):
        merge_adapters(given, "cat", heads / "c", overwrite=True)


def test_an_adapter_is_written_in_dtypes_that_programs_read(tmp_path):
    write_folder(tmp_path / "a", factors("q", 1), r=2)
    with pytest.raises(BadValue, match="not written as F8_E4M3") as refused:
        merged(tmp_path, {"a": 1.0}, dtype="float8_e4m3fn")
    assert "bfloat16" in str(refused.value)
    assert not (tmp_path / "m").exists()
