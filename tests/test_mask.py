"""Masks: random ones are a function of their seed, stored ones are bits, largest ones a trim."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deltakit.add_difference import AddDifference
from deltakit.errors import BadFile, BadValue, ShapeMismatch, UnknownName
from deltakit.lazy import LazyDelta
from deltakit.mask import Mask, RandomMask, StoredMask, save_bits
from deltakit.rng import Draws
from deltakit.store.made_mask import MadeMask, MaskPlan
from deltakit.strategies import Stack
from deltakit.strategies.masks.magnitude import Magnitude
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo

INFOS = {
    "w": TensorInfo("F32", (3, 7)),
    "s": TensorInfo("BF16", ()),
    "e": TensorInfo("F32", (0, 2)),
}


def test_a_random_mask_is_the_draws_of_its_task_and_tensor():
    mask = Mask.random(density=0.3, seed=9, task="trec")
    assert np.array_equal(mask.keep("w", 5, 500), Draws(9, "trec", "w").keep(5, 500, 0.3))


def test_a_random_mask_is_saved_as_its_seed(tmp_path: Path):
    mask = RandomMask(1 / 3, -7, "tâsk")
    mask.save(tmp_path / "m.safetensors")
    assert Mask.open(tmp_path / "m.safetensors") == mask
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.keys() == []
        assert file.metadata()["seed"] == "-7"


@pytest.mark.parametrize("density", [0.0, -1.0, 1.5, float("nan")])
def test_a_density_outside_is_refused(density: float):
    with pytest.raises(BadValue, match="density"):
        RandomMask(density, 0, "t")
    with pytest.raises(BadValue, match="density"):
        MaskPlan("magnitude", {"density": density}).masking()


@pytest.mark.parametrize("mask", [RandomMask(0.4, 1, "t"), RandomMask(1.0, 1, "t")])
def test_bits_are_read_back_at_any_range(tmp_path: Path, mask: RandomMask):
    save_bits(tmp_path / "m.safetensors", mask, INFOS)
    found = Mask.open(tmp_path / "m.safetensors")
    assert isinstance(found, StoredMask)
    for name, info in INFOS.items():
        for start in range(info.numel + 1):
            for stop in range(start, info.numel + 1):
                expected = mask.keep(name, start, stop)
                assert np.array_equal(found.keep(name, start, stop), expected)


def test_a_stored_mask_fits_only_its_own_parameters(tmp_path: Path):
    save_bits(tmp_path / "m.safetensors", RandomMask(0.4, 1, "t"), INFOS)
    mask = Mask.open(tmp_path / "m.safetensors")
    mask.check_fits(INFOS)
    mask.check_fits({"w": TensorInfo("BF16", (3, 7))})
    for shape in [(7, 3), (21,), (3, 8), ()]:
        with pytest.raises(ShapeMismatch, match="'w'"):
            mask.check_fits({"w": TensorInfo("F32", shape)})
    with pytest.raises(UnknownName, match="'v'"):
        mask.check_fits({"v": TensorInfo("F32", (1,))})
    with pytest.raises(UnknownName, match="'v'"):
        mask.keep("v", 0, 1)
    with pytest.raises(IndexError):
        mask.keep("w", 0, 22)


RANDOM = {
    "deltakit": "1",
    "kind": "mask",
    "mask": "random",
    "seed": "0",
    "task": "t",
    "density": "0.5",
}
STORED = {"deltakit": "1", "kind": "mask", "mask": "stored", "shapes": '{"w":[3,7]}'}


@pytest.mark.parametrize(
    "metadata",
    [
        {**RANDOM, "seed": "x"},
        {**RANDOM, "seed": "9" * 5000},
        {**RANDOM, "density": "nan"},
        {**RANDOM, "density": "1e999"},
        {**RANDOM, "density": "0"},
        {k: v for k, v in RANDOM.items() if k != "task"},
        {k: v for k, v in RANDOM.items() if k != "density"},
        {**RANDOM, "kind": "delta"},
        {**STORED, "shapes": "{"},
        {**STORED, "shapes": '{"w":[3,8,9]}'},
        {**STORED, "shapes": '{"w":[-3,-7]}'},
        {**STORED, "shapes": '{"w":[1099511627776,1099511627776]}'},
        {**STORED, "shapes": '{"v":[3,7]}'},
        {k: v for k, v in STORED.items() if k != "shapes"},
    ],
)
def test_a_malformed_mask_file_is_refused_with_its_path(tmp_path: Path, metadata: dict[str, str]):
    path = tmp_path / "m.safetensors"
    save_file({"w.bitmask": torch.zeros(3, dtype=torch.uint8)}, path, metadata=metadata)
    with pytest.raises(BadFile) as caught:
        Mask.open(path)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(path))


def test_the_file_that_a_malformed_one_was_made_from_is_good(tmp_path: Path):
    path = tmp_path / "m.safetensors"
    for metadata in (RANDOM, STORED):
        save_file({"w.bitmask": torch.zeros(3, dtype=torch.uint8)}, path, metadata=metadata)
        assert Mask.open(path).keep("w", 0, 21).shape == (21,)


@pytest.mark.parametrize(
    ("density", "kept"),
    [(0.01, [3]), (0.2, [3]), (0.4, [1, 3]), (0.6, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_the_largest_mask_keeps_the_largest_and_at_least_one(density: float, kept: list[int]):
    values = torch.tensor([1.0, -3.0, 0.5, 5.0, 3.0])
    info = {"w": TensorInfo("F32", (5,))}
    plan = MaskPlan("magnitude", {"density": density})
    mask = MadeMask(plan, "t", info, lambda name, start, stop: LazyDelta(values[start:stop]))
    assert np.flatnonzero(mask.keep("w", 0, 5)).tolist() == kept
    assert np.flatnonzero(mask.keep("w", 1, 4)).tolist() == [i - 1 for i in kept if 1 <= i < 4]
    assert np.flatnonzero(mask.keep("w", 0, 5, values)).tolist() == kept


@pytest.mark.parametrize("name", ["magnitude", "outliers", "rank", "group"])
def test_threads_that_ask_for_one_made_mask_get_the_same_entries(tmp_path: Path, name: str):
    shape, names = (400, 250), ["a", "b", "c"]  # more than the kernels read at a time
    infos = {each: TensorInfo("F32", shape) for each in names}
    models = []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        tensors = {each: torch.randn(shape, generator=generator) for each in names}
        save_file(tensors, tmp_path / f"{number}.safetensors")
        models.append(Checkpoint.open(tmp_path / f"{number}.safetensors"))

    def mask() -> MadeMask:
        read = AddDifference(*models, None, None).lazy
        return MadeMask(MaskPlan(name), "t", infos, read)

    numel = math.prod(shape)
    alone = {each: mask().keep(each, 0, numel) for each in names}
    assert len({kept.tobytes() for kept in alone.values()}) == 3
    asked = mask()
    ranges = [(each, start) for start in range(0, numel, 12_500) for each in names]  # by turns

    def same(place: tuple[str, int]) -> bool:
        each, start = place
        kept = asked.keep(each, start, start + 12_500)
        return np.array_equal(kept, alone[each][start : start + 12_500])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, ranges, timeout=60))


def test_a_mask_that_changes_only_how_it_is_applied_is_applied():
    @dataclass(frozen=True)
    class Signed(Magnitude):
        def apply(self, stack: Stack) -> torch.Tensor:
            return super().apply(stack).clamp(min=0)

    assert Magnitude().is_lazy
    assert not Signed().is_lazy
