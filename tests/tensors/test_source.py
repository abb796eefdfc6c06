"""Tensors in memory and on disk are read by the same words."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deltakit.dtypes import (
    DTYPES,
    parse_dtype,
    safetensors_dtype,
    torch_dtype,
    working_dtype,
)
from deltakit.errors import BadFile, UnknownName
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.digest import CHUNK, bytes_digest, tensor_digest, whole_fingerprint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import MemoryTensors, TensorSource
from tests.models import some_tensors


@pytest.fixture(params=["memory", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> TensorSource:
    if request.param == "memory":
        return MemoryTensors(some_tensors())
    save_file(some_tensors(), tmp_path / "x.safetensors")
    return Checkpoint.open(tmp_path / "x.safetensors")


def test_a_source_is_a_mapping(source: TensorSource):
    assert len(source) == len(some_tensors())
    assert set(source) == set(some_tensors())
    assert "mask" in source
    assert "none" not in source
    assert source.get("none") is None
    assert torch.equal(source["embed.weight"], some_tensors()["embed.weight"])


def test_an_unknown_name_is_an_error_with_the_nearest_one(source: TensorSource):
    with pytest.raises(UnknownName, match=r"did you mean 'embed[.]weight'") as caught:
        source["embed.weigth"]
    assert isinstance(caught.value, KeyError)


def test_each_block_is_that_slice_of_the_flat_tensor(source: TensorSource):
    raw = torch.empty(64 * 4, dtype=torch.uint8)
    for name, tensor in some_tensors().items():
        flat = tensor.reshape(-1)
        for start in range(0, len(flat) + 1, 3):
            for stop in (start, len(flat)):
                if stop >= start:
                    assert torch.equal(source.block(name, start, stop, raw), flat[start:stop])


def test_digests_are_those_of_the_bytes(source: TensorSource):
    for name, tensor in some_tensors().items():
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert source.digest(name) == bytes_digest(raw)


def test_memory_tensors_see_values_whatever_the_strides():
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).t()
    source = MemoryTensors({"t": tensor})
    assert torch.equal(source["t"], tensor.detach())


def test_a_digest_is_the_same_however_it_is_read():
    data = bytes(range(256)) * (CHUNK // 128) + b"end"  # two chunks and a bit

    def read(start: int, out: memoryview) -> None:
        out[:] = data[start : start + len(out)]

    assert tensor_digest(len(data), read) == bytes_digest(data)
    assert tensor_digest(0, read) == bytes_digest(b"")


def test_names_that_run_together_have_other_fingerprints():
    info = TensorInfo("U8", (1,))
    tables = [{'a", "U8': "d"}, {"a": "d"}, {"a\n": "d"}, {"a": "d", "b": "d"}, {"a": "d\n"}]
    found = {whole_fingerprint(dict.fromkeys(table, info), table) for table in tables}
    assert len(found) == len(tables)


def test_a_dtype_torch_cannot_hold_is_refused_with_the_tensors_name(tmp_path: Path):
    text = b'{"odd":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"123")
    model = Checkpoint.open(tmp_path / "x.safetensors")
    assert model.digest("odd") == bytes_digest(b"123")
    with pytest.raises(BadFile, match="'odd'"):
        model["odd"]


@pytest.mark.parametrize("name", [name for name, (_, torch_name) in DTYPES.items() if torch_name])
def test_dtypes_go_to_torch_and_back(name: str):
    assert safetensors_dtype(torch_dtype(name)) == name
    assert torch_dtype(name).itemsize * 8 == DTYPES[name][0]


def test_torch_dtypes_without_a_name_are_refused():
    with pytest.raises(BadFile, match="complex128"):
        safetensors_dtype(torch.complex128)


@pytest.mark.parametrize(
    ("text", "name"),
    [("bfloat16", "BF16"), ("torch.float16", "F16"), ("F32", "F32"), ("f64", "F64"),
     ("float8_e4m3fn", "F8_E4M3"), ("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32"),
     ("half", "F16"), ("torch.half", "F16"), ("fp64", "F64")],
)  # fmt: skip
def test_a_float_dtype_has_both_its_names_and_those_of_training_flags(text: str, name: str):
    assert parse_dtype(text) == name


@pytest.mark.parametrize("text", ["int8", "I64", "float", "", "bool"])
def test_other_dtypes_are_unknown(text: str):
    with pytest.raises(UnknownName, match="bfloat16"):
        parse_dtype(text)


def test_an_unknown_dtype_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'bfloat16'"):
        parse_dtype("bflot16")


def test_arithmetic_is_in_float32_or_wider():
    assert working_dtype("F64") == torch.float64
    assert working_dtype("BF16") == working_dtype("F32") == torch.float32
