"""What a delta stores of each parameter: which entries, and with what value."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltakit.add_difference import AddDifference
from deltakit.delta import Delta
from deltakit.errors import (
    BadValue,
    DtypeMismatch,
    NamesDiffer,
    NonFinite,
    ShapeMismatch,
)
from deltakit.mask import Mask, RandomMask, save_bits
from deltakit.store.made_mask import MadeMask, MaskPlan
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import MemoryTensors
from tests.diffing import FLOATS, add, blocks, pair

Tensors = Mapping[str, torch.Tensor]


@pytest.mark.parametrize("changed", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_the_naive_float32_difference_rounded_once(
    tmp_path: Path, dtype: torch.dtype, changed: float
):
    base, tuned = pair(dtype, changed=changed)
    delta = add(tmp_path / "d", base, tuned)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    for name in base:
        naive = (tuned[name].to(work) - base[name].to(work)).to(dtype)
        assert delta.changes(name) == bool((naive.to(work) != 0).any())
        assert torch.equal(blocks(delta, base, name), naive.to(work).reshape(-1))
        if delta.changes(name):
            assert delta[name].dtype == dtype
            assert delta[name].shape == naive.shape
            assert torch.equal(delta[name].to(work), naive.to(work))
    assert not delta.changes("same")


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_values_are_stored_in_the_dtype_asked_for(tmp_path: Path, dtype: str):
    base, tuned = pair(torch.bfloat16)
    delta = add(tmp_path / "d", base, tuned, dtype=dtype)
    naive = (tuned["w"].float() - base["w"].float()).to(delta["w"].dtype)
    assert {t.info.dtype for t in delta.tensors.values()} == {dtype}
    assert torch.equal(delta["w"].float(), naive.float())


@pytest.mark.parametrize(
    ("base", "tuned", "dtype", "exact"),
    [
        ([1.0, 2.0], [1.5, 2.0], None, True),
        ([1.0, 2.0], [1.0, 2.0], None, True),
        ([1.0, 2.0], [1.5, 2.0 + 2**-10], "F16", True),
        ([1.0, 2.0], [1.5 + 2**-12, 2.0], "F16", False),  # rounded
        ([1.0, 0.0], [1.5, 2.0**-30], "F16", False),  # gone
        ([1.0, 2.0], [1.5 + 2**-12, 2.0], "F32", True),
    ],
)
def test_a_delta_says_whether_its_values_are_exact(
    tmp_path: Path, base: list[float], tuned: list[float], dtype: str | None, exact: bool
):
    delta = add(tmp_path / "d", {"w": torch.tensor(base)}, {"w": torch.tensor(tuned)}, dtype=dtype)
    assert delta.exact is exact


def test_what_a_mask_drops_does_not_make_a_delta_inexact(tmp_path: Path):
    base, tuned = torch.zeros(50), torch.full((50,), 0.5)
    mask = RandomMask(0.5, 0, "trec")
    dropped = int(np.flatnonzero(~mask.keep("w", 0, 50))[0])
    tuned[dropped] = 1 + 2**-20
    assert add(tmp_path / "d", {"w": base}, {"w": tuned}, mask=mask, dtype="F16").exact
    tuned[int(np.flatnonzero(mask.keep("w", 0, 50))[0])] = 1 + 2**-20
    assert not add(tmp_path / "d", {"w": base}, {"w": tuned}, mask=mask, dtype="F16").exact


def test_a_wider_float_in_the_tuned_model_is_compared_in_float32(tmp_path: Path):
    base, tuned = {"w": torch.tensor([1.0, 2.0]).bfloat16()}, {"w": torch.tensor([1.25, 2.0])}
    assert add(tmp_path / "d", base, tuned)["w"].tolist() == [0.25, 0.0]


def test_integers_are_no_part_of_an_additive_delta(tmp_path: Path):
    base = {"w": torch.zeros(3), "ids": torch.arange(3), "flag": torch.tensor([True])}
    tuned = {"w": torch.ones(3), "ids": torch.arange(3) + 1, "flag": torch.tensor([False])}
    delta = add(tmp_path / "d", base, tuned)
    assert list(delta) == ["w"]
    assert delta.integers_left == ["flag", "ids"]  # told, because no merge will apply them


MADE = {
    "largest": ("magnitude", {"density": 0.2}),
    "rows": ("group", {}),
    "ranked": ("rank", {}),
    "whole": ("importance", {}),
}


def masks(path: Path, base: Tensors, tuned: Tensors) -> dict[str, Mask]:
    infos = MemoryTensors(base).infos
    save_bits(path, RandomMask(0.35, 3, "other"), infos)
    source = AddDifference(MemoryTensors(base), MemoryTensors(tuned), None, None)
    return {
        "random": RandomMask(0.3, 1, "trec"),
        "thick": RandomMask(0.97, 1, "trec"),
        "all": RandomMask(1.0, 1, "trec"),
        "stored": Mask.open(path),
        **{
            kind: MadeMask(MaskPlan(name, settings), "trec", infos, source.lazy)
            for kind, (name, settings) in MADE.items()
        },
    }


@pytest.mark.parametrize("kind", ["random", "thick", "all", "stored", *MADE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_keeps_the_right_positions_with_their_full_values(
    tmp_path: Path, kind: str, dtype: torch.dtype
):
    base, tuned = pair(dtype)
    mask = masks(tmp_path / "m.safetensors", base, tuned)[kind]
    delta = add(tmp_path / "d", base, tuned, mask=mask)
    for name, tensor in base.items():
        naive = (tuned[name].float() - tensor.float()).to(dtype).float().reshape(-1)
        if kind == "largest":
            order = np.argsort(-naive.abs().numpy(), kind="stable")
            kept = np.zeros(len(naive), dtype=bool)
            kept[order[: max(1, round(0.2 * len(naive)))]] = True
        else:
            kept = mask.keep(name, 0, len(naive))
        assert torch.equal(blocks(delta, base, name), naive * torch.from_numpy(kept))


def test_a_random_mask_is_its_seed_even_where_it_keeps_nearly_all(tmp_path: Path):
    base, tuned = pair(torch.float32)
    for density, kind in [(0.3, "seed"), (0.97, "seed"), (1.0, "dense")]:
        delta = add(tmp_path / "d", base, tuned, mask=RandomMask(density, 1, "trec"))
        assert delta.tensors["w"].codec == kind


def test_a_random_mask_costs_no_positions(tmp_path: Path):
    base, tuned = pair(torch.float32)
    delta = add(tmp_path / "d", base, tuned, mask=RandomMask(0.3, 1, "trec"))
    assert delta.tensors["w"].codec == "seed"
    assert delta.tensors["w"].count == RandomMask(0.3, 1, "trec").keep("w", 0, 1000).sum()
    assert delta.recipe == {"mask": "random", "density": "0.3", "seed": "1", "task": "trec"}


def test_a_random_mask_of_few_changes_is_stored_by_position(tmp_path: Path):
    base, tuned = pair(torch.bfloat16, changed=0.01)
    delta = add(tmp_path / "d", base, tuned, mask=RandomMask(0.9, 1, "trec"))
    assert delta.tensors["w"].codec == "indices"


def stored_bytes(delta: Delta, name: str) -> int:
    infos = delta.file.header.infos
    return sum(i.nbytes for n, i in infos.items() if n == name or n.startswith(f"{name}."))


@given(density=st.floats(0.005, 1.0), changed=st.floats(0.005, 1.0))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_parameter_is_stored_the_smallest_way(tmp_path: Path, density: float, changed: float):
    base, tuned = pair(torch.bfloat16, changed=changed)
    base, tuned = {"w": base["w"]}, {"w": tuned["w"]}
    mask = RandomMask(density, 1, "trec")
    delta = add(tmp_path / "d", base, tuned, mask=mask)
    drawn = mask.keep("w", 0, 1000)
    kept = int((drawn & ((tuned["w"].float() - base["w"].float()) != 0).reshape(-1).numpy()).sum())
    ways = [2000, 2 * kept + 125, 6 * kept, 2 * int(drawn.sum())]
    assert stored_bytes(delta, "w") == (min(ways) if kept else 0)


def test_a_mask_of_other_shapes_is_refused_before_anything_is_written(tmp_path: Path):
    base, tuned = {"w": torch.zeros(4, 2)}, {"w": torch.ones(4, 2)}
    save_bits(tmp_path / "m", RandomMask(0.5, 1, "t"), {"w": TensorInfo("F32", (2, 4))})
    with pytest.raises(ShapeMismatch, match="'w'"):
        add(tmp_path / "d", base, tuned, mask=Mask.open(tmp_path / "m"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("masked", [False, True])
def test_a_number_that_is_none_is_refused_by_name(tmp_path: Path, bad: float, masked: bool):
    base = {"ok": torch.zeros(3), "wrong": torch.zeros(2000)}
    tuned = {"ok": torch.ones(3), "wrong": torch.zeros(2000)}
    tuned["wrong"][1234] = bad
    mask = RandomMask(0.01, 0, "t") if masked else None
    for one, other in [(base, tuned), (tuned, base)]:
        with pytest.raises(NonFinite, match="'wrong' holds NaN or infinity"):
            add(tmp_path / "d", one, other, mask=mask)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "value"), [("F16", 7e4), ("F8_E4M3", 1e6), ("F8_E5M2", 6e4)])
def test_a_difference_too_large_for_its_dtype_is_refused_by_name(
    tmp_path: Path, dtype: str, value: float
):
    base, tuned = {"wrong": torch.zeros(3)}, {"wrong": torch.tensor([0.0, value, 0.0])}
    with pytest.raises(NonFinite, match="'wrong' overflows") as caught:
        add(tmp_path / "d", base, tuned, dtype=dtype)
    assert "float32" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_half_precision_models_that_differ_by_more_than_half_holds_are_refused(tmp_path: Path):
    base, tuned = {"w": torch.tensor([-6e4]).half()}, {"w": torch.tensor([6e4]).half()}
    with pytest.raises(NonFinite, match="overflows"):
        add(tmp_path / "d", base, tuned)
    assert add(tmp_path / "d", base, tuned, dtype="F32")["w"].tolist() == [120_000.0]


@pytest.mark.parametrize(
    ("tuned", "error", "words"),
    [
        ({"w": torch.zeros(3)}, NamesDiffer, "missing"),
        ({"w": torch.zeros(3), "v": torch.zeros(2), "u": torch.zeros(1)}, NamesDiffer, "extra"),
        ({"w": torch.zeros(3), "x": torch.zeros(2)}, NamesDiffer, "also v"),
        ({"w": torch.zeros(3, 1), "v": torch.zeros(2)}, ShapeMismatch, "'w'"),
        ({"w": torch.zeros(3).int(), "v": torch.zeros(2)}, DtypeMismatch, "'w'"),
    ],
)
def test_models_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, tuned: Tensors, error: type[Exception], words: str
):
    base = {"w": torch.zeros(3), "v": torch.zeros(2)}
    with pytest.raises(error) as caught:
        add(tmp_path / "d", base, tuned)
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["I8", "BOOL", "F4", "float32", ""])
def test_a_dtype_that_is_no_float_is_refused(tmp_path: Path, dtype: str):
    with pytest.raises(BadValue, match="BF16"):
        add(tmp_path / "d", {"w": torch.zeros(3)}, {"w": torch.ones(3)}, dtype=dtype)


def test_a_parameter_named_like_a_stored_part_is_refused_by_name(tmp_path: Path):
    with pytest.raises(BadValue, match=r"w\.values"):
        add(tmp_path / "d", {"w.values": torch.zeros(3)}, {"w.values": torch.ones(3)})
