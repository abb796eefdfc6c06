"""Interference of adapters, from factors: equal to what the dense deltas give."""

import pytest
import torch
from safetensors.torch import save_file

from deltakit.errors import NonFinite
from deltakit.lora import open_adapter
from deltakit.lora.arrays import arrays
from deltakit.lora.overlap import overlap
from deltakit.lora.union import Member
from tests.lora.folders import delta, factors, write_folder


def members(folder, **tensors):
    return [
        Member(name, open_adapter(write_folder(folder / name, found, r=2, lora_alpha=3)))
        for name, found in tensors.items()
    ]


def test_cosine_and_norm_are_those_of_the_deltas(tmp_path):
    a, b = factors("q", 1) | factors("k", 2), factors("q", 3) | factors("v", 4)
    report = overlap(members(tmp_path, a=a, b=b))
    (pair,) = report.pairs
    dense = [
        torch.cat(
            [
                delta(t, m, 1.5).flatten() if f"{m}.lora_A.weight" in t else torch.zeros(30)
                for m in "qkv"
            ]
        )
        for t in (a, b)
    ]
    cosine = float(torch.nn.functional.cosine_similarity(*dense, dim=0))
    assert pair.cosine == pytest.approx(cosine, abs=1e-6)
    assert [f.norm for f in report.adapters] == pytest.approx([float(d.norm()) for d in dense])
    squares = sum(float(d.square().sum()) for d in dense)
    both = float((dense[0] + dense[1]).square().sum())
    assert pair.interference == pytest.approx(both / squares - 1, abs=1e-6)
    assert (pair.shared, pair.only_a, pair.only_b) == (1, 1, 1)
    files = [tmp_path / name / "adapter_model.safetensors" for name in "ab"]
    assert [f.nbytes for f in report.adapters] == [file.stat().st_size for file in files]


def test_an_adapter_and_itself_overlap_wholly(tmp_path):
    same = factors("q", 1)
    (pair,) = overlap(members(tmp_path, a=same, b=same)).pairs
    assert (pair.cosine, pair.interference) == pytest.approx((1.0, 1.0))
    assert (pair.inputs, pair.outputs) == pytest.approx((1.0, 1.0))
    assert pair.modules[0].angles == pytest.approx([0.0, 0.0], abs=1e-3)


def test_spaces_at_right_angles_share_nothing(tmp_path):
    eye = torch.eye(5)
    b = torch.ones(6, 2) + torch.eye(6)[:, :2]
    first = {"q.lora_A.weight": eye[:2], "q.lora_B.weight": b}
    second = {"q.lora_A.weight": eye[2:4], "q.lora_B.weight": b}
    (pair,) = overlap(members(tmp_path, a=first, b=second)).pairs
    assert pair.cosine == pytest.approx(0.0, abs=1e-9)
    assert pair.inputs == pytest.approx(0.0, abs=1e-9)
    assert pair.outputs == pytest.approx(1.0)
    assert pair.modules[0].angles == pytest.approx([torch.pi / 2] * 2)


def test_adapters_of_nothing_in_common_have_no_overlap(tmp_path):
    (pair,) = overlap(members(tmp_path, a=factors("q", 1), b=factors("k", 2))).pairs
    assert (pair.shared, pair.inputs, pair.cosine) == (0, None, 0.0)


def test_ranks_filled_up_with_zeros_are_no_part_of_a_space(tmp_path):
    a, b = factors("q", 1), factors("q", 2)
    wide = {
        "q.lora_A.weight": torch.cat([a["q.lora_A.weight"], torch.zeros(2, 5)]),
        "q.lora_B.weight": torch.cat([a["q.lora_B.weight"], torch.zeros(6, 2)], dim=1),
    }
    root = tmp_path / "wide"
    folder = write_folder(root, wide, r=4, lora_alpha=6)
    others = members(tmp_path, a=a, b=b)
    (plain,) = overlap(others).pairs
    (filled,) = overlap([Member("a", open_adapter(folder)), others[1]]).pairs
    for key in ("cosine", "interference", "inputs", "outputs"):
        assert getattr(filled, key) == pytest.approx(getattr(plain, key), abs=1e-6)
    assert filled.modules[0].angles == pytest.approx(plain.modules[0].angles, abs=1e-6)


def test_an_adapter_that_is_zero_shares_no_space(tmp_path):
    nothing = {name: torch.zeros_like(value) for name, value in factors("q", 1).items()}
    (pair,) = overlap(members(tmp_path, a=factors("q", 1), b=nothing)).pairs
    assert (pair.cosine, pair.inputs, pair.modules[0].angles) == (None, 0.0, [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_arrays_are_the_factors_that_torch_reads(tmp_path, dtype):
    folder = write_folder(tmp_path / "a", factors("q", 1, dtype=dtype), r=2, lora_alpha=3)
    adapter = open_adapter(folder)
    for ours, theirs in zip(arrays(adapter, "q"), adapter.factors("q"), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs.double(), rtol=1e-6, atol=0)


def test_arrays_of_a_factored_convolution_are_folded(tmp_path):
    path = tmp_path / "k.safetensors"
    down, mid, up = torch.randn(2, 3, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(4, 2, 1, 1)
    save_file({"c.lora_down.weight": down, "c.lora_mid.weight": mid, "c.lora_up.weight": up}, path)
    adapter = open_adapter(path)
    for ours, theirs in zip(arrays(adapter, "c"), adapter.factors("c"), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs.double(), rtol=1e-5, atol=1e-5)


def test_nan_is_refused(tmp_path):
    broken = {name: value * torch.nan for name, value in factors("q", 1).items()}
    with pytest.raises(NonFinite, match="NaN"):
        overlap(members(tmp_path, a=broken, b=factors("q", 2)))
