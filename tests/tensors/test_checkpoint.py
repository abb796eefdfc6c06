"""A model on disk, in whatever files; what does not fit together is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltakit.errors import BadFile, InputChanged, NotFound
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.index import INDEX_NAME, index_bytes, read_index
from tests.models import some_tensors, write_index, write_model, write_shards

SINGLE = "model.safetensors"


def refused(path: Path, *words: str, error: type[Exception] = BadFile) -> None:
    with pytest.raises(error) as caught:
        Checkpoint.open(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def alike(model: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
    assert set(model) == set(tensors)
    for name, tensor in tensors.items():
        assert model[name].dtype == tensor.dtype
        assert model[name].shape == tensor.shape
        assert torch.equal(model[name], tensor)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_a_folder_is_one_mapping_whatever_its_files(tmp_path: Path, shards: int):
    model = Checkpoint.open(write_model(tmp_path / "m", some_tensors(), shards=shards))
    alike(model, some_tensors())
    assert model.folder == tmp_path / "m"
    assert model.config()["model_type"] == "bert"


def test_a_lone_file_is_a_model_by_its_own_name_or_its_folders(tmp_path: Path):
    save_file(some_tensors(), tmp_path / "weights.safetensors")
    alike(Checkpoint.open(tmp_path / "weights.safetensors"), some_tensors())
    model = Checkpoint.open(str(tmp_path))
    alike(model, some_tensors())
    assert model.config() == {}


def test_a_missing_model_is_not_found(tmp_path: Path):
    refused(tmp_path / "none", error=NotFound)


def test_an_empty_folder_is_refused(tmp_path: Path):
    refused(tmp_path, "no .safetensors file")


def test_two_files_without_an_index_are_refused(tmp_path: Path):
    for name in ("a", "b"):
        save_file({name: torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    refused(tmp_path, "a.safetensors, b.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.PT"])
def test_a_folder_of_pickles_is_refused_with_how_to_convert(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"\x80\x02")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, name, "convert")


def test_pickles_beside_the_weights_do_not_matter(tmp_path: Path):
    folder = write_model(tmp_path / "m", some_tensors())
    (folder / "training_args.bin").write_bytes(b"\x80\x02")
    alike(Checkpoint.open(folder), some_tensors())


def test_an_adapter_is_refused_with_what_to_do(tmp_path: Path):
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "adapter", "lora bake")


def test_both_layouts_at_once_are_refused(tmp_path: Path):
    folder = write_model(tmp_path / "m", some_tensors(), shards=2)
    save_file(some_tensors(), folder / SINGLE)
    refused(folder, SINGLE, INDEX_NAME)


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "..", "",
     "x.bin", "x.safetensors\0", "x.safetensors/", 3, None, ["x.safetensors"]],
)  # fmt: skip
def test_an_index_names_only_files_of_its_folder(tmp_path: Path, shard: object):
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    write_index(tmp_path / ".", {"w": shard})
    refused(tmp_path, "'w'")


@pytest.mark.parametrize(
    "shard", ["none.safetensors", "x" * 300 + ".safetensors", "\ud800.safetensors"]
)
def test_a_missing_shard_is_not_found(tmp_path: Path, shard: str):
    write_index(tmp_path, {"w": shard})
    with pytest.raises(NotFound):
        Checkpoint.open(tmp_path)


def test_a_tensor_in_two_shards_is_refused_by_name(tmp_path: Path):
    write_shards(
        tmp_path, [{"a": torch.zeros(1), "twice": torch.zeros(1)}, {"twice": torch.ones(1)}]
    )
    refused(tmp_path, "'twice'", "model-00001-of-00002", "model-00002-of-00002")


def test_a_tensor_no_shard_has_is_refused_by_name(tmp_path: Path):
    index = write_shards(tmp_path, [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
    table = json.loads(index.read_text())["weight_map"]
    write_index(tmp_path, {**table, "ghost": table["a"]})
    refused(tmp_path, "ghost")
    write_index(tmp_path, {"a": table["b"], "b": table["a"]})  # each in the other's shard
    refused(tmp_path, "a")


def test_a_tensor_the_index_does_not_claim_is_refused_by_name(tmp_path: Path):
    index = write_shards(tmp_path, [{"a": torch.zeros(1), "stray": torch.zeros(1)}])
    write_index(tmp_path, {"a": json.loads(index.read_text())["weight_map"]["a"]})
    refused(tmp_path, "stray")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": null}',
     "{}", "[" * 100_000, '{"weight_map": ' + "9" * 5000 + "}", b"\xff\xfe"],
)  # fmt: skip
def test_a_malformed_index_is_refused(tmp_path: Path, text: str | bytes):
    (tmp_path / INDEX_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path, INDEX_NAME)


def test_a_tensor_that_the_index_names_twice_is_refused(tmp_path: Path):
    write_model(tmp_path / "m", some_tensors(), shards=2)
    path = tmp_path / "m" / INDEX_NAME
    weights = json.loads(path.read_text())["weight_map"]
    name = next(iter(weights))
    pairs = [*weights.items(), (name, weights[name])]
    text = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
    path.write_text(f'{{"weight_map": {{{text}}}}}')
    with pytest.raises(BadFile, match=rf"the key '{name}' stands twice[\s\S]*{INDEX_NAME}"):
        Checkpoint.open(tmp_path / "m")


def test_a_malformed_config_is_refused(tmp_path: Path):
    folder = write_model(tmp_path / "m", some_tensors())
    for text in ("[]", "{", "9" * 5000):
        (folder / "config.json").write_text(text)
        with pytest.raises(BadFile, match=r"config\.json"):
            Checkpoint.open(folder).config()


def test_an_index_is_written_as_it_is_read(tmp_path: Path):
    (tmp_path / INDEX_NAME).write_bytes(
        index_bytes({"b": "2.safetensors", "a": "1.safetensors"}, 7)
    )
    assert read_index(tmp_path / INDEX_NAME) == {"a": "1.safetensors", "b": "2.safetensors"}
    assert json.loads((tmp_path / INDEX_NAME).read_text())["metadata"] == {"total_size": 7}


def hub(root: Path, shards: int) -> Path:
    """Lay a model out as the hub's cache does: snapshots/<rev>/name -> ../../blobs/<hash>."""
    real = write_model(root / "real", some_tensors(), shards=shards)
    snapshot = root / "models--x" / "snapshots" / "abc"
    (root / "models--x" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(real.iterdir())):
        path.rename(root / "models--x" / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


@pytest.mark.parametrize("shards", [1, 2])
def test_links_into_the_blobs_of_the_same_hub_cache_are_followed(tmp_path: Path, shards: int):
    snapshot = hub(tmp_path, shards)
    alike(Checkpoint.open(snapshot), some_tensors())
    assert Checkpoint.open(snapshot).config()["model_type"] == "bert"
    (tmp_path / "mine").symlink_to(snapshot)
    alike(Checkpoint.open(tmp_path / "mine"), some_tensors())


def test_links_into_the_blobs_of_another_model_are_refused(tmp_path: Path):
    one, other = hub(tmp_path / "1", 1), hub(tmp_path / "2", 1)
    (one / SINGLE).unlink()
    (one / SINGLE).symlink_to((other / SINGLE).resolve())
    refused(one, "link", SINGLE)


@pytest.mark.parametrize(
    "name", [SINGLE, "config.json", INDEX_NAME, "model-00001-of-00002.safetensors"]
)
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str):
    folder = write_model(tmp_path / "m", some_tensors(), shards=1 if name == SINGLE else 2)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadFile, match="leads out") as caught:
        Checkpoint.open(folder).config()
    assert str(folder / name) in str(caught.value)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path):
    folder = write_model(tmp_path / "m", some_tensors())
    (folder / SINGLE).rename(folder / "real")
    (folder / SINGLE).symlink_to("real")
    alike(Checkpoint.open(folder), some_tensors())


def test_a_dangling_shard_is_not_found(tmp_path: Path):
    folder = write_model(tmp_path / "m", some_tensors(), shards=2)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to("nowhere")
    with pytest.raises(NotFound, match="00001"):
        Checkpoint.open(folder)


def fingerprint(path: Path) -> str:
    return Checkpoint.open(path).fingerprint()


def test_the_fingerprint_depends_on_no_layout_and_no_order(tmp_path: Path):
    tensors = some_tensors()
    expected = fingerprint(write_model(tmp_path / "1", tensors))
    assert fingerprint(write_model(tmp_path / "2", tensors, shards=2)) == expected
    assert fingerprint(write_model(tmp_path / "3", tensors, shards=5)) == expected
    save_file(dict(reversed(tensors.items())), tmp_path / "x.safetensors", metadata={"a": "b"})
    assert fingerprint(tmp_path / "x.safetensors") == expected


def test_the_fingerprint_is_golden(tmp_path: Path):
    save_file({"w": torch.tensor([1.0, -2.0])}, tmp_path / "x.safetensors")
    model = Checkpoint.open(tmp_path / "x.safetensors")
    assert model.digest("w") == "54847fa2028a3457068a78ba8e6a086cccf672def025d7e4cb2761b538edbf3f"
    assert model.fingerprint() == "7b444f2f0cd49c12a17bf98600ccff8f24184d4514e0c562dd25086088b7d539"


def test_the_fingerprint_is_sensitive_to_every_byte_name_shape_and_dtype(tmp_path: Path):
    base = {"a": torch.arange(6, dtype=torch.int32), "b": torch.zeros(2)}
    variants = [base]
    for at in range(24):
        raw = base["a"].clone().view(torch.uint8)
        raw[at] ^= 1
        variants.append({**base, "a": raw.view(torch.int32)})
    variants += [
        {**base, "a": base["a"].reshape(2, 3)},
        {**base, "a": base["a"].reshape(6, 1)},
        {**base, "a": base["a"].view(torch.float32)},
        {"a ": base["a"], "b": base["b"]},
        {"b": base["a"], "a": base["b"]},
        {"a": base["a"]},
        {**base, "c": torch.zeros(0)},
        {**base, "b": -base["b"]},  # -0.0
    ]
    found = []
    for number, tensors in enumerate(variants):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        found.append(fingerprint(tmp_path / f"{number}.safetensors"))
    assert len(set(found)) == len(variants)


def test_a_shard_that_changes_fails_the_whole_model(tmp_path: Path):
    folder = write_model(tmp_path / "m", some_tensors(), shards=2)
    model = Checkpoint.open(folder)
    model.check_unchanged()
    with (folder / "model-00002-of-00002.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputChanged, match="00002"):
        model.check_unchanged()
