"""Adapters in a store: kept as they are, given back byte for byte, merged by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltakit.errors import (
    AlreadyThere,
    BadFile,
    BadValue,
    NamesDiffer,
    ShapeMismatch,
    UnknownName,
    WrongBase,
)
from deltakit.importance import ImportanceMap
from deltakit.lora import open_adapter
from deltakit.members import open_members
from deltakit.merging import merge
from deltakit.store import Store
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.reader import SafetensorsFile
from tests.lora.folders import delta, factors, write_folder
from tests.models import write_model
from tests.store.conftest import Project, content, tensors

SIZE = {"outputs": 8, "inputs": 8}


def adapter(folder: Path, seed: int = 1, **config: object) -> Path:
    config = {"r": 2, "lora_alpha": 6, **config}
    found = write_folder(folder, factors("layer", seed, **SIZE), **config)
    (found / "README.md").write_text("# trained by hand\n")
    return found


@pytest.fixture
def style(project: Project, tmp_path: Path) -> Path:
    folder = adapter(tmp_path / "lora-style", base_model_name_or_path="models/tiny")
    project.store.add_adapter("style", folder, base="tiny")
    return folder


def test_an_adapter_is_stored_as_its_factors_and_tied_to_its_base(project: Project, style: Path):
    record = project.store.task("style")
    fingerprint = project.store.base("tiny").fingerprint
    assert (record.role, record.base, record.base_fingerprint) == ("adapter", "tiny", fingerprint)
    assert (record.density, record.exact, record.reason) == (None, True, "add")
    assert record.provenance["trained_on"] == "models/tiny"
    stored, given = open_adapter(record.delta_path), open_adapter(style)
    assert stored.source.digests() == given.source.digests()
    assert stored.parts == given.parts
    assert stored.base is not None
    assert stored.base.fingerprint == fingerprint
    names = SafetensorsFile(record.delta_path).header.infos
    assert not any(info.shape == (8, 8) for info in names.values())


def test_the_folder_comes_back_byte_for_byte(project: Project, style: Path, tmp_path: Path):
    proof = project.store.restore("style", tmp_path / "out")
    assert content(tmp_path / "out") == content(style)
    assert [file.name for file in proof.files] == ["adapter_model.safetensors"]
    assert proof.beside == ["README.md", "adapter_config.json"]


def test_a_kohya_file_comes_back_byte_for_byte(project: Project, tmp_path: Path):
    parts = {
        "lora_unet_layer.lora_down.weight": torch.ones(2, 8),
        "lora_unet_layer.lora_up.weight": torch.ones(8, 2),
        "lora_unet_layer.alpha": torch.tensor(4.0),
    }
    save_file(parts, tmp_path / "k.safetensors", metadata={"ss_note": "by kohya"})
    record = project.store.add_adapter("k", tmp_path / "k.safetensors", base="tiny")
    assert open_adapter(record.delta_path).flat
    project.store.restore("k", tmp_path / "out")
    same = (tmp_path / "k.safetensors").read_bytes()
    assert content(tmp_path / "out") == {"k.safetensors": same}
    merge(["k"], "task_arithmetic", tmp_path / "m", store=project.store)
    found = Checkpoint.open(tmp_path / "m")["layer.weight"]
    torch.testing.assert_close(found, tensors()["layer.weight"] + 4.0, rtol=0, atol=1e-6)


def test_adapters_merge_by_name_with_sparse_and_lossless_tasks(
    project: Project, style: Path, tmp_path: Path
):
    store = project.store
    names = ["style", "first", "whole"]
    merge(names, "task_arithmetic", tmp_path / "m", store=store, weights=[1.0, 0.5, 0.25])
    base, one, two = (
        Checkpoint.open(project.models / name)["layer.weight"].double() for name in ("base", *"ab")
    )
    low = delta(factors("layer", 1, **SIZE), "layer", 3.0)
    expected = base + low + 0.5 * (one - base) + 0.25 * (two - base)
    found = Checkpoint.open(tmp_path / "m")["layer.weight"].double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_adapter_without_base_is_checked_when_it_is_merged(project: Project, tmp_path: Path):
    store = project.store
    record = store.add_adapter("free", adapter(tmp_path / "lora"))
    assert (record.base, record.base_fingerprint) == (None, None)
    with pytest.raises(BadValue, match="no base is named"):
        merge(["free"], "average", tmp_path / "m", store=store)
    merge(["free", "first"], "average", tmp_path / "m", store=store)
    base = write_model(tmp_path / "other", {"layer.weight": torch.zeros(8, 4)})
    with pytest.raises(ShapeMismatch, match="does not fit"):
        merge(["free"], "average", tmp_path / "n", store=store, base=str(base))
    assert store.verify(read_data=True) == []


def test_an_adapter_that_fits_not_one_module_is_refused_when_it_is_added(
    project: Project, tmp_path: Path
):
    folder = write_folder(tmp_path / "lora", factors("layers", 1, **SIZE), r=2)
    with pytest.raises(NamesDiffer, match="nothing would be applied") as refused:
        project.store.add_adapter("x", folder, base="tiny")
    assert "layers.weight" in str(refused.value)
    assert "layer.weight, as in" in str(refused.value)
    assert "x" not in project.store.tasks()
    assert not (project.store.folder / "tasks" / "x").exists()


def test_a_tied_adapter_is_refused_on_another_base(project: Project, style: Path, tmp_path: Path):
    changed = tensors() | {"layer.weight": torch.ones(8, 8)}
    write_model(tmp_path / "other", changed)
    with pytest.raises(WrongBase, match=r"layer\.weight"):
        merge(
            ["style"],
            "average",
            tmp_path / "m",
            store=project.store,
            base=str(tmp_path / "other"),
        )


def test_stored_adapters_are_members_of_a_lora_merge_by_name(
    project: Project, style: Path, tmp_path: Path
):
    adapter(tmp_path / "b", seed=2)
    one, two = open_members(["style", f"{tmp_path}/b"], [1.0, 0.5], project.store)
    assert (one.name, one.weight, two.name, two.weight) == ("style", 1.0, "b", 0.5)
    with pytest.raises(UnknownName, match="'style'"):
        open_members(["stile"], store=project.store)
    with pytest.raises(BadFile, match="not a LoRA adapter"):
        open_members(["first"], store=project.store)


@pytest.mark.parametrize("read_data", [False, True])
def test_verify_finds_an_adapter_sound_and_a_changed_byte(
    project: Project, style: Path, read_data: bool
):
    store = project.store
    assert store.verify(read_data=read_data) == []
    path = store.task("style").delta_path
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    found = store.verify(read_data=True)
    assert [finding.path for finding in found if finding.tensor] == [path]


def test_gc_leaves_the_files_of_an_adapter_and_takes_those_of_a_removed_one(
    project: Project, style: Path, tmp_path: Path
):
    store = project.store
    assert store.gc(0.0).deleted == []
    store.remove("style")
    kinds = {path.name.partition("-")[0] for path in store.gc(0.0).deleted}
    assert kinds == {"adapter", "checkpoint"}


def test_maps_of_rank_units_go_with_an_adapter(project: Project, style: Path):
    store = project.store
    scores = {"base_model.model.layer": torch.tensor([1.0, 2.0])}
    record = store.attach_importance("style", ImportanceMap(scores, task="style", units="rank"))
    assert record.importance_path is not None
    assert open_members(["style"], store=store)[0].importance == record.importance_path
    wrong = {"base_model.model.layer": torch.ones(3)}
    with pytest.raises(ShapeMismatch, match="does not fit"):
        store.attach_importance("style", ImportanceMap(wrong, task="style", units="rank"))
    strange = {"base_model.model.lair": torch.ones(2)}
    with pytest.raises(NamesDiffer, match="layer"):
        store.attach_importance("style", ImportanceMap(strange, task="style", units="rank"))
    assert store.verify() == []


def test_a_map_of_parameters_needs_an_adapter_that_is_tied(
    project: Project, style: Path, tmp_path: Path
):
    store = project.store
    scores = ImportanceMap({"layer.weight": torch.tensor(1.0)}, task="style")
    assert store.attach_importance("style", scores).importance_path is not None
    with pytest.raises(BadValue, match="tied to no base"):
        store.add_adapter("free", style, importance=scores)
    assert "free" not in store.tasks()


def test_a_name_is_taken_by_adapters_and_deltas_alike(project: Project, style: Path):
    with pytest.raises(AlreadyThere, match="style"):
        project.store.add("style", "tiny", project.models / "a")
    with pytest.raises(AlreadyThere, match="first"):
        project.store.add_adapter("first", style)


def test_a_stored_adapter_is_strict_about_its_own_file(project: Project, style: Path):
    path = project.store.task("style").delta_path
    raw = SafetensorsFile(path)
    metadata = dict(raw.header.metadata) | {"config": json.dumps({"peft_type": "LORA", "r": 3})}
    values = {name: Checkpoint(path, [raw])[name] for name in raw.header.infos}
    save_file(values, path.parent / "x.safetensors", metadata=metadata)
    with pytest.raises(BadFile, match="do not agree on the rank"):
        open_adapter(path.parent / "x.safetensors")
    save_file(values, path.parent / "y.safetensors", metadata=metadata | {"config": "[" * 100_000})
    with pytest.raises(BadFile, match="not valid JSON"):
        open_adapter(path.parent / "y.safetensors")
    save_file(values, path.parent / "z.safetensors", metadata=metadata | {"deltakit": "2"})
    with pytest.raises(BadFile, match="newer"):
        open_adapter(path.parent / "z.safetensors")


def test_an_adapter_of_one_store_can_be_added_to_another_with_its_tie(
    project: Project, style: Path, tmp_path: Path
):
    record = project.store.task("style")
    shutil.copy(record.delta_path, tmp_path / "style.safetensors")
    other = Store.init(tmp_path / "store")
    added = other.add_adapter("again", tmp_path / "style.safetensors")
    assert (added.base, added.base_fingerprint) == (None, record.base_fingerprint)
    assert other.verify(read_data=True) == []
