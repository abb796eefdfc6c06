"""What is added with lossless=True comes back bit for bit, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltakit.errors import AlreadyThere, BadFile, BadValue, WrongBase
from deltakit.store import Store
from tests.models import some_tensors, write_model, write_shards
from tests.store.conftest import Project, content

FLOAT8 = torch.float8_e4m3fn


def every_kind() -> dict[str, torch.Tensor]:
    return {**some_tensors(), "fp8": torch.randn(9, 3).to(FLOAT8), "bytes": torch.arange(7).byte()}


def changed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some parameters are changed everywhere, some in one entry, some not at all."""
    found = {name: value.clone() for name, value in tensors.items()}
    found["embed.weight"] += 0.25
    found["layer.0.weight"][2, 3] = -0.0
    found["layer.0.bias"][1] = float("nan")
    found["layer.0.scale"] *= 2
    found["position_ids"][3] = -1
    found["fp8"].view(torch.uint8)[4] ^= 1
    return found


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("base_shards", [1, 2])
def test_a_lossless_task_restores_every_byte(tmp_path: Path, shards: int, base_shards: int):
    write_model(tmp_path / "base", every_kind(), shards=base_shards)
    tuned = write_model(tmp_path / "tuned", changed(every_kind()), shards=shards)
    (tuned / "tokenizer.json").write_bytes(b"{}\n\xf0")
    (tuned / "1_Pooling").mkdir()
    (tuned / "1_Pooling" / "config.json").write_text("[1]")
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", tuned, lossless=True)
    expected = content(tuned)
    (tuned / "config.json").write_text("the original may go")

    proof = store.restore("t", tmp_path / "out")

    assert content(tmp_path / "out") == expected
    assert proof.fingerprint_added == proof.fingerprint_written
    assert [f.name for f in proof.files] == sorted(n for n in expected if ".safetensors" in n[-12:])
    assert all(file.added == file.written for file in proof.files)


def test_a_head_and_vocabulary_of_another_shape_are_restored(tmp_path: Path):
    base, tuned = some_tensors(), some_tensors()
    tuned["embed.weight"] = torch.cat([base["embed.weight"], torch.ones(3, 4).bfloat16()])
    tuned["layer.0.bias"] = base["layer.0.bias"].float()
    tuned["classifier.weight"] = torch.randn(3, 4)
    tuned["empty.new"] = torch.zeros(0, 2)
    del tuned["layer.0.weight"]
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", tuned)
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", tmp_path / "tuned", lossless=True)
    store.restore("t", tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "tuned")


def test_a_lone_file_is_restored_under_its_name(tmp_path: Path):
    write_model(tmp_path / "base", some_tensors())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private.txt").write_text("not part of the model")
    save_file(some_tensors(1), tmp_path / "elsewhere" / "tuned.safetensors")
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", tmp_path / "elsewhere" / "tuned.safetensors", lossless=True)
    store.restore("t", tmp_path / "out")
    expected = (tmp_path / "elsewhere" / "tuned.safetensors").read_bytes()
    assert content(tmp_path / "out") == {"tuned.safetensors": expected}


TIED = {"model_type": "llama", "tie_word_embeddings": True}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("in_base", [False, True])
def test_a_tied_weight_that_is_stored_twice_is_restored_twice(
    tmp_path: Path, shards: int, in_base: bool, alone: bool
):
    def tensors(seed: int, twice: bool) -> dict[str, torch.Tensor]:
        own = {f"model.{name}": tensor for name, tensor in some_tensors(seed).items()}
        own["model.embed_tokens.weight"] = own.pop("model.embed.weight")
        copy = {"lm_head.weight": own["model.embed_tokens.weight"].clone()} if twice else {}
        return {**own, **copy}

    write_model(tmp_path / "base", tensors(0, in_base), config=TIED)
    tuned = write_model(tmp_path / "tuned", tensors(1, True), shards=shards, config=TIED)
    (tuned / "generation_config.json").write_text("{}")
    given = tuned / "model.safetensors" if alone and shards == 1 else tuned
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", given, lossless=True)
    proof = store.restore("t", tmp_path / "out")
    expected = content(tuned)
    if given != tuned:
        expected = {given.name: expected[given.name]}
    assert content(tmp_path / "out") == expected
    assert proof.fingerprint_added == proof.fingerprint_written


def test_header_order_padding_and_metadata_are_kept(tmp_path: Path):
    """A header no writer of ours would make comes back as it is."""
    write_model(tmp_path / "base", {"x": torch.zeros(2), "y": torch.zeros(2)})
    entry = {"dtype": "F32", "shape": [2]}
    table = {
        "y": {**entry, "data_offsets": [0, 8]},
        "__metadata__": {"é": "1"},
        "x": {"data_offsets": [8, 16], **entry},
    }
    raw = json.dumps(table, indent=3).encode() + b" " * 13
    (tmp_path / "tuned").mkdir()
    data = len(raw).to_bytes(8, "little") + raw + bytes(range(16))
    (tmp_path / "tuned" / "model.safetensors").write_bytes(data)
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", tmp_path / "tuned", lossless=True)
    store.restore("t", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == data


def test_files_that_are_not_kept_are_named(tmp_path: Path):
    write_model(tmp_path / "base", some_tensors())
    tuned = write_model(tmp_path / "tuned", some_tensors(1))
    (tuned / "notes.rtf").write_text("")
    (tuned / "optimizer.pt").write_bytes(b"")
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    record = store.add("t", "b", tuned, lossless=True)
    assert record.provenance["left_out"] == "notes.rtf, optimizer.pt"


def test_an_existing_output_is_refused_and_replaced_only_if_asked(project: Project, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    with pytest.raises(AlreadyThere, match="--overwrite"):
        project.store.restore("whole", out)
    assert list(content(out)) == ["config.json"]
    project.store.restore("whole", out, overwrite=True)
    assert content(out) == content(project.models / "b")
    project.store.restore("whole", out, overwrite=True)
    assert content(out) == content(project.models / "b")


@pytest.mark.parametrize("mine", ["thesis.txt", "src/train.py", "old.safetensors", "link"])
def test_a_folder_that_holds_anything_else_is_never_replaced(
    project: Project, tmp_path: Path, mine: str
):
    project.store.restore("whole", out := tmp_path / "home")
    (out / mine).parent.mkdir(exist_ok=True)
    if mine == "link":
        (out / mine).symlink_to(project.folder)
    else:
        (out / mine).write_text("mine")
    before = content(out)
    with pytest.raises(AlreadyThere, match=rf"not ours to replace\n.*\n +got: +{mine}\n"):
        project.store.restore("whole", out, overwrite=True)
    assert content(out) == before


def test_nothing_is_restored_into_the_folder_of_a_store(project: Project):
    first = project.store.task("first").folder
    for place, overwrite in ((first, True), (first.parent / "new", False)):
        with pytest.raises(BadValue, match="in the folder of a store"):
            project.store.restore("whole", place, overwrite=overwrite)
    assert project.store.verify(read_data=True) == []


def test_a_restore_never_takes_the_place_of_its_base_or_store(project: Project):
    for place in (project.folder, project.store.folder, project.models, project.models / "base"):
        with pytest.raises(AlreadyThere, match="would take the place"):
            project.store.restore("whole", place, overwrite=True)
    assert project.store.verify(read_data=True) == []


def test_a_mergeable_task_says_what_to_do_instead(project: Project, tmp_path: Path):
    with pytest.raises(BadValue, match="deltakit merge first --strategy task_arithmetic"):
        project.store.restore("first", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_delta_restores_nothing_and_names_the_tensor(project: Project, tmp_path: Path):
    path = project.store.task("whole").delta_path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadFile, match=r"the tensor '\S+' would not be restored.*\n.*\n.*blake3"):
        project.store.restore("whole", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_changed_base_restores_nothing_and_names_the_tensor(tmp_path: Path):
    write_model(tmp_path / "base", some_tensors())
    write_model(tmp_path / "tuned", some_tensors(1))
    store = Store.init(tmp_path)
    store.add_base("b", tmp_path / "base")
    store.add("t", "b", tmp_path / "tuned", lossless=True)
    other = {**some_tensors(), "layer.0.scale": torch.tensor(1.5)}
    write_shards(tmp_path / "base", [other])
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(WrongBase, match=r"layer\.0\.scale"):
        store.restore("t", tmp_path / "out")
    assert not (tmp_path / "out").exists()
