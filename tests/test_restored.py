"""A replace delta gives the fine-tuned model back bit for bit, or is refused by name."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltakit.delta import Delta
from deltakit.diff import write_add, write_replace
from deltakit.dtypes import DTYPES
from deltakit.errors import BadValue, WrongBase
from deltakit.restored import Restored
from deltakit.tensors.source import MemoryTensors, TensorSource

Tensors = Mapping[str, torch.Tensor]
TORCH_DTYPES = [getattr(torch, name) for _, name in DTYPES.values() if name]


def replace(path: Path, base: Tensors, tuned: Tensors) -> Delta:
    write_replace(path, MemoryTensors(base), MemoryTensors(tuned), task="trec")
    return Delta.open(path)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(restored: TensorSource, tuned: Tensors) -> None:
    assert set(restored) == set(tuned)
    for name, tensor in tuned.items():
        assert restored[name].dtype == tensor.dtype
        assert restored[name].shape == tensor.shape
        assert raw(restored[name]) == raw(tensor), name
    assert restored.fingerprint() == MemoryTensors(tuned).fingerprint()


def bits(dtype: torch.dtype, numel: int, seed: int) -> torch.Tensor:
    """Every bit pattern of a dtype is fair: NaN payloads, -0.0, subnormals."""
    generator = torch.Generator().manual_seed(seed)
    most = 2 if dtype == torch.bool else 256
    data = torch.randint(0, most, (numel * dtype.itemsize,), generator=generator)
    return data.to(torch.uint8).view(dtype)


@pytest.mark.parametrize("changed", [0.0, 0.01, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_any_bits_of_any_dtype_come_back(tmp_path: Path, dtype: torch.dtype, changed: float):
    numel, size = 700, dtype.itemsize
    base = {"w": bits(dtype, numel, 0).reshape(7, 100), "s": bits(dtype, 1, 1).reshape(())}
    moved = torch.rand(numel, generator=torch.Generator().manual_seed(3)) < changed
    flat = base["w"].reshape(-1).view(torch.uint8).reshape(numel, size).clone()
    flat[moved] = bits(dtype, numel, 2).view(torch.uint8).reshape(numel, size)[moved]
    tuned = {"w": flat.reshape(-1).view(dtype).reshape(7, 100), "s": base["s"]}
    delta = replace(tmp_path / "d", base, tuned)
    same(Restored(MemoryTensors(base), delta), tuned)
    assert delta.new.fingerprint == MemoryTensors(tuned).fingerprint()
    assert not delta.changes("s")
    assert delta.exact


def test_nan_payloads_and_signs_of_zero_count_as_changes(tmp_path: Path):
    base = torch.tensor([0x7FC00000, 0, 0x7F800001, 1], dtype=torch.int32).view(torch.float32)
    tuned = torch.tensor([0x7FC00001, -(1 << 31), 0x7F800001, 1], dtype=torch.int32)
    delta = replace(tmp_path / "d", {"w": base}, {"w": tuned.view(torch.float32)})
    assert delta.tensors["w"].count == 2
    same(Restored(MemoryTensors({"w": base}), delta), {"w": tuned.view(torch.float32)})


def test_new_missing_reshaped_and_retyped_tensors_come_back(tmp_path: Path):
    base = {
        "kept": torch.arange(4.0),
        "gone": torch.ones(3),
        "reshaped": torch.arange(6.0),
        "grown": torch.arange(6.0).reshape(2, 3),
        "retyped": torch.arange(3.0),
        "same bits": torch.arange(4, dtype=torch.int32),
        "emptied": torch.ones(2),
        "empty": torch.zeros(0, 3),
        "empty too": torch.zeros(0, 3),
        "filled": torch.zeros(0),
    }
    tuned = {
        "kept": base["kept"],
        "reshaped": base["reshaped"].reshape(2, 3),
        "grown": torch.arange(9.0).reshape(3, 3),
        "retyped": base["retyped"].double(),
        "same bits": base["same bits"].view(torch.float32),
        "emptied": torch.zeros(0),
        "empty": torch.zeros(0, 3),
        "empty too": torch.zeros(5, 0).half(),
        "filled": torch.ones(3),
        "new": torch.full((2, 2), -0.0),
        "new empty": torch.zeros(0, 2),
        "new scalar": torch.tensor(True),
    }
    delta = replace(tmp_path / "d", base, tuned)
    same(Restored(MemoryTensors(base), delta), tuned)
    assert not delta.changes("kept")
    assert not delta.changes("empty")


def test_a_model_equal_to_its_base_is_a_delta_without_tensors(tmp_path: Path):
    base = {"w": torch.ones(3)}
    delta = replace(tmp_path / "d", base, base)
    assert len(delta) == 0
    assert delta.density == 0.0
    same(Restored(MemoryTensors(base), delta), base)


BASE = torch.arange(97, dtype=torch.int32)
TUNED = torch.where(torch.rand(97, generator=torch.Generator().manual_seed(0)) < 0.2, -BASE, BASE)


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    base = {"w": BASE}
    delta = replace(tmp_path_factory.mktemp("m") / "d", base, {"w": TUNED})
    return Restored(MemoryTensors(base), delta)


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_range_of_bytes_is_restored(restored: Restored, data: st.DataObject):
    start = data.draw(st.integers(0, 388))
    stop = data.draw(st.integers(start, 388))
    buffer = bytearray(stop - start)
    restored.read("w", start, memoryview(buffer))
    assert bytes(buffer) == raw(TUNED)[start:stop]


def test_the_bytes_of_a_restored_tensor_end_where_it_ends(restored: Restored):
    with pytest.raises(IndexError):
        restored.read("w", 384, memoryview(bytearray(8)))


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.zeros(4), "b": torch.zeros(2)},
        {"w": torch.zeros(5).half(), "b": torch.zeros(2)},
        {"w": torch.zeros(5, 1), "b": torch.zeros(2)},
        {"w": torch.zeros(5)},
        {"w": torch.zeros(5), "b": torch.zeros(2), "w2": torch.zeros(1)},
    ],
)
def test_another_base_is_refused_by_name(tmp_path: Path, other: Tensors):
    base = {"w": torch.zeros(5), "b": torch.zeros(2)}
    delta = replace(tmp_path / "d", base, {"w": torch.ones(5), "b": torch.zeros(2)})
    with pytest.raises(WrongBase, match=r"'w'|'b'|'w2'"):
        Restored(MemoryTensors(other, label="./other"), delta)


def test_an_additive_delta_restores_nothing(tmp_path: Path):
    base, tuned = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    write_add(tmp_path / "d", MemoryTensors(base), MemoryTensors(tuned), task="t")
    with pytest.raises(BadValue, match="--lossless"):
        Restored(MemoryTensors(base), Delta.open(tmp_path / "d"))
