"""kohya's files: read, fitted to a base, and converted both ways."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltakit.errors import BadFile, BadValue, NamesDiffer
from deltakit.lora import is_adapter, open_adapter
from deltakit.lora.delta import AdapterDelta
from deltakit.lora.kohya import dotted, write_kohya
from deltakit.lora.merge import merge_adapters
from deltakit.lora.union import Member
from deltakit.tensors.source import MemoryTensors
from tests.lora.folders import delta, factors, write_folder


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kohya(path, **extra):
    save_file(
        {
            "lora_unet_down_0_to_q.lora_down.weight": random(2, 5),
            "lora_unet_down_0_to_q.lora_up.weight": random(6, 2, seed=1),
            "lora_unet_down_0_to_q.alpha": torch.tensor(1.0),
            **extra,
        },
        path,
    )
    return path


BASE = {"down.0.to_q.weight": random(6, 5, seed=2), "down.0.norm.weight": random(6)}


def test_alpha_over_the_rank_of_lora_down_is_the_scaling(tmp_path):
    path = kohya(tmp_path / "k.safetensors")
    assert is_adapter(path)
    found = open_adapter(path).factors("lora_unet_down_0_to_q")
    torch.testing.assert_close(found.b @ found.a, 0.5 * random(6, 2, seed=1) @ random(2, 5))


def test_without_alpha_the_scaling_is_one(tmp_path):
    path = tmp_path / "k.safetensors"
    save_file({"x.lora_down.weight": random(2, 5), "x.lora_up.weight": random(6, 2)}, path)
    assert open_adapter(path).parts["x"].scaling == 1.0


def test_a_factored_convolution_is_folded(tmp_path):
    down, mid, up = random(2, 3, 1, 1), random(2, 2, 3, 3, seed=1), random(4, 2, 1, 1, seed=2)
    path = tmp_path / "k.safetensors"
    save_file({"c.lora_down.weight": down, "c.lora_mid.weight": mid, "c.lora_up.weight": up}, path)
    found = open_adapter(path).factors("c")
    expected = torch.einsum("or,rjkl,ji->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    torch.testing.assert_close((found.b @ found.a).reshape(4, 3, 3, 3), expected)


def test_it_is_fitted_to_a_base_by_names_without_dots(tmp_path):
    found = AdapterDelta(open_adapter(kohya(tmp_path / "k.safetensors")))
    found.check_base(MemoryTensors(BASE))
    assert found.changes("down.0.to_q.weight")
    assert not found.changes("down.0.norm.weight")


def test_a_name_of_no_module_is_refused_with_the_nearest(tmp_path):
    found = AdapterDelta(open_adapter(kohya(tmp_path / "k.safetensors")))
    with pytest.raises(NamesDiffer, match=r"no module for(.|\n)*down.0.to_qq"):
        found.check_base(MemoryTensors({"down.0.to_qq.weight": random(6, 5)}))


def test_a_name_of_two_modules_is_refused(tmp_path):
    found = AdapterDelta(open_adapter(kohya(tmp_path / "k.safetensors")))
    both = {**BASE, "down_0.to_q.weight": random(6, 5)}
    with pytest.raises(BadValue, match="two modules"):
        found.check_base(MemoryTensors(both))


@pytest.mark.parametrize(
    "name",
    ["lora_unet_x.hada_w1_a", "lora_unet_x.lokr_w1", "lora_unet_down_0_to_q.dora_scale", "y"],
)
def test_other_kinds_are_refused_by_name(tmp_path, name):
    path = kohya(tmp_path / "k.safetensors", **{name: random(2, 2)})
    with pytest.raises(BadFile, match=name):
        open_adapter(path)


def test_there_and_back_is_the_same_delta(tmp_path):
    tensors = factors("down.0.to_q", 1)
    folder = write_folder(tmp_path / "a", tensors, r=2, lora_alpha=3)
    write_kohya(open_adapter(folder), tmp_path / "k.safetensors")
    raw = load_file(tmp_path / "k.safetensors")
    assert raw["lora_unet_down_0_to_q.alpha"].item() == 3.0
    assert torch.equal(
        raw["lora_unet_down_0_to_q.lora_down.weight"], tensors["down.0.to_q.lora_A.weight"]
    )
    back = dotted(open_adapter(tmp_path / "k.safetensors"), ["down.0.to_q", "down.0.norm"])
    merge_adapters([Member("k", back)], "cat", tmp_path / "b")
    found = open_adapter(tmp_path / "b").factors("down.0.to_q")
    torch.testing.assert_close((found.b @ found.a).double(), delta(tensors, "down.0.to_q", 1.5))


def test_what_kohya_cannot_hold_is_refused(tmp_path):
    tensors = {**factors("q", 1), "head.weight": random(3, 3)}
    folder = write_folder(tmp_path / "a", tensors, r=2, modules_to_save=["head"])
    with pytest.raises(BadValue, match="whole tensors"):
        write_kohya(open_adapter(folder), tmp_path / "k.safetensors")
    assert not (tmp_path / "k.safetensors").exists()


def test_a_kohya_file_and_a_peft_folder_are_not_merged_unseen(tmp_path):
    folder = write_folder(tmp_path / "a", factors("q", 1), r=2)
    both = [
        Member("a", open_adapter(folder)),
        Member("k", open_adapter(kohya(tmp_path / "k.safetensors"))),
    ]
    with pytest.raises(BadValue, match="convert it first"):
        merge_adapters(both, "svd", tmp_path / "m")


def test_a_kohya_file_is_named_as_it_is_told_by(tmp_path):
    write_folder(tmp_path / "a", factors("q", 1), r=2)
    with pytest.raises(BadValue, match="told by its name"):
        write_kohya(open_adapter(tmp_path / "a"), tmp_path / "style")
    assert not (tmp_path / "style").exists()
