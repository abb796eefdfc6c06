"""What a header tells, without its data."""

from pathlib import Path

import torch

from deltakit.delta import Delta
from deltakit.diff import write_add
from deltakit.inspect import read_header
from deltakit.lora import open_adapter
from deltakit.lora.stored import write_stored
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.source import MemoryTensors
from tests.lora.folders import factors, write_folder
from tests.models import write_model


def test_a_delta_tells_role_density_and_size(tmp_path: Path):
    base = MemoryTensors({"w": torch.zeros(1000), "v": torch.zeros(1000)})
    tuned = torch.zeros(1000)
    tuned[:100] = 1.0
    path = tmp_path / "d.safetensors"
    write_add(path, base, MemoryTensors({"w": tuned, "v": torch.zeros(1000)}), task="trec")
    header = read_header(Delta.open(path))
    assert (header.task, header.role, header.exact) == ("trec", "add", True)
    assert header.density == 0.05
    assert (header.changed_parameters, header.parameters, header.values) == (1, 2, 100)
    assert header.nbytes == path.stat().st_size
    assert header.codecs == {"bitmask": 1}
    assert header.dtypes == {"F32": 1}
    assert header.base_fingerprint == base.fingerprint()


def test_a_model_tells_its_dtypes_and_bytes(tmp_path: Path):
    folder = write_model(tmp_path / "m", {"w": torch.zeros(3, 4).half(), "ids": torch.arange(5)})
    header = read_header(Checkpoint.open(folder), "mine")
    assert (header.task, header.role, header.density) == ("mine", "model", None)
    assert header.dtypes == {"F16": 1, "I64": 1}
    assert (header.parameters, header.values) == (2, 17)
    assert header.nbytes == (folder / "model.safetensors").stat().st_size


def test_an_adapter_tells_the_bytes_of_its_file_in_a_folder_and_stored(tmp_path: Path):
    folder = write_folder(tmp_path / "a", factors("q", 1, rank=2), r=2)
    write_stored(tmp_path / "a.safetensors", open_adapter(folder), "a")
    for path, file in (
        (folder, folder / "adapter_model.safetensors"),
        (tmp_path / "a.safetensors", tmp_path / "a.safetensors"),
    ):
        header = read_header(open_adapter(path))
        assert (header.role, header.parameters, header.values) == ("adapter", 1, 22)
        assert header.nbytes == file.stat().st_size
