"""Writing a delta: whole or not at all, the same bytes for the same models."""

import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from deltakit import delta_file
from deltakit.add_difference import AddDifference
from deltakit.delta import Delta
from deltakit.diff import write_add, write_replace
from deltakit.errors import (
    AlreadyThere,
    BadValue,
    InputChanged,
    WrongBase,
)
from deltakit.mask import Mask, RandomMask, save_bits
from deltakit.provenance import ModelTable
from deltakit.store.made_mask import MadeMask, MaskPlan
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import MemoryTensors
from tests.diffing import FLOATS, add, file_bytes, pair
from tests.failing import FailingFiles
from tests.kernels import without_kernels
from tests.models import write_model

Tensors = Mapping[str, torch.Tensor]


def test_an_existing_file_is_refused_before_anything_is_read(tmp_path: Path):
    (tmp_path / "d").write_bytes(b"mine")
    tensors = MemoryTensors({"w": torch.full((3,), float("nan"))})
    with pytest.raises(AlreadyThere):
        write_add(tmp_path / "d", tensors, tensors, task="t")
    assert (tmp_path / "d").read_bytes() == b"mine"


def test_the_size_of_blocks_does_not_show_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base, tuned = pair(torch.bfloat16, changed=0.5)
    found = set()
    for block in (8, 64, 1 << 20):
        monkeypatch.setattr(delta_file, "BLOCK", block)
        for mask in (None, RandomMask(0.5, 1, "t")):
            add(tmp_path / "d", base, tuned, mask=mask)
            found.add((mask, (tmp_path / "d").read_bytes()))
    assert len(found) == 2


@pytest.mark.parametrize("dtype", [None, "F16"])
@pytest.mark.parametrize("tuned_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["none", "half", "few", "stored", "magnitude", "outliers", "rank"])
def test_threads_and_kernels_do_not_show_in_the_bytes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    tuned_dtype: torch.dtype,
    dtype: str | None,
):
    monkeypatch.setattr(delta_file, "BLOCK", 64)
    base, tuned = pair(torch.bfloat16, changed=0.5)
    tuned = {name: tensor.to(tuned_dtype) for name, tensor in tuned.items()}
    tuned["w"] = torch.where(tuned["w"] > 1, tuned["w"] * 1.01, tuned["w"])  # rounded where stored
    base, tuned = MemoryTensors(base), MemoryTensors(tuned)

    def mask() -> Mask | None:
        if kind in ("half", "few"):
            return RandomMask({"half": 0.5, "few": 0.02}[kind], 1, "t")
        if kind == "stored":
            (tmp_path / "m").unlink(missing_ok=True)
            save_bits(tmp_path / "m", RandomMask(0.35, 3, "other"), base.infos)
            return Mask.open(tmp_path / "m")
        read = AddDifference(base, tuned, None, None).lazy
        return None if kind == "none" else MadeMask(MaskPlan(kind), "t", base.infos, read)

    found = set()
    for kernels_of in (nullcontext, without_kernels):
        for threads in (1, 2, 4):
            with kernels_of():
                to, options = tmp_path / "a", {"mask": mask(), "dtype": dtype, "threads": threads}
                write_add(to, base, tuned, task="t", **options)
            found.add(to.read_bytes())
            to.unlink()
    assert len(found) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_threads_and_kernels_do_not_show_in_the_bytes_of_a_lossless_delta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
):
    monkeypatch.setattr(delta_file, "BLOCK", 64)
    base, tuned = (MemoryTensors(tensors) for tensors in pair(dtype, changed=0.5))
    found = set()
    for kernels_of in (nullcontext, without_kernels):
        for threads in (1, 2, 4):
            with kernels_of():
                write_replace(tmp_path / "r", base, tuned, task="t", threads=threads)
            found.add((tmp_path / "r").read_bytes())
            (tmp_path / "r").unlink()
    assert len(found) == 1


def test_models_that_kernels_read_from_files_give_the_bytes_that_torch_gives(tmp_path: Path):
    shape = (3, 50_021)  # more than is read at a time, from odd places
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator).bfloat16() for name in "ab"}
    tuned = {name: (t * 1.01).where(t > 0, t) for name, t in base.items()}
    sources = [
        Checkpoint.open(write_model(tmp_path / name, tensors))
        for name, tensors in (("base", base), ("tuned", tuned))
    ]
    found = set()
    for kernels_of in (nullcontext, without_kernels):
        with kernels_of():
            write_add(tmp_path / "d", *sources, task="t", mask=RandomMask(0.3, 1, "t"))
            write_replace(tmp_path / "r", *sources, task="t")
        found.add(tuple((tmp_path / name).read_bytes() for name in "dr"))
        for name in "dr":
            (tmp_path / name).unlink()
    assert len(found) == 1


def test_a_mask_of_rows_thins_a_tensor_larger_than_a_block(tmp_path: Path):
    base = MemoryTensors({"w": torch.zeros(3, delta_file.BLOCK)})
    tuned = MemoryTensors({"w": torch.arange(3.0 * delta_file.BLOCK).view(3, -1)})
    read = AddDifference(base, tuned, None, None).lazy
    mask = MadeMask(MaskPlan("nm", {"n": 1, "m": 4}), "t", base.infos, read)
    write_add(tmp_path / "d", base, tuned, task="t", mask=mask)
    kept = Delta.open(tmp_path / "d")["w"].reshape(-1, 4)
    assert torch.equal(kept != 0, torch.tensor([False, False, False, True]).expand_as(kept))


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(tmp_path: Path, threads: int):
    tensors = MemoryTensors({"w": torch.ones(3)})
    with pytest.raises(BadValue, match="threads"):
        write_add(tmp_path / "d", tensors, tensors, task="t", threads=threads)


def test_the_layout_of_the_models_does_not_show_in_the_bytes(tmp_path: Path):
    base, tuned = pair(torch.bfloat16)
    found = set()
    for shards in (1, 3):
        one = write_model(tmp_path / f"base{shards}", base, shards=shards)
        other = write_model(tmp_path / f"tuned{shards}", tuned, shards=shards)
        path = tmp_path / f"d{shards}"
        write_add(path, Checkpoint.open(one), Checkpoint.open(other), task="t")
        found.add(path.read_bytes())
    assert len(found) == 1


def test_a_model_that_changes_meanwhile_fails_the_diff(tmp_path: Path):
    base, tuned = pair(torch.float32)
    base_folder = write_model(tmp_path / "base", base)
    folder = write_model(tmp_path / "tuned", tuned)

    def touch(name: str, entries: int) -> None:
        (folder / "model.safetensors").touch()

    for write in (write_add, write_replace):
        with pytest.raises(InputChanged, match="tuned"):
            write(
                tmp_path / "d",
                Checkpoint.open(base_folder),
                Checkpoint.open(folder),
                task="t",
                progress=touch,
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_nothing_is_left_at_whatever_call_it_fails(tmp_path: Path):
    base, tuned = (MemoryTensors(tensors) for tensors in pair(torch.float32, changed=0.5))
    number = 0
    while True:
        number += 1
        files = FailingFiles(number)
        try:
            write_add(tmp_path / "d", base, tuned, task="t", files=files, threads=1)
            break
        except OSError:
            if files.calls[-1] != "sync_folder":
                assert not list(tmp_path.iterdir())
            (tmp_path / "d").unlink(missing_ok=True)
    assert number > 10
    assert Delta.open(tmp_path / "d").changes("w")


def test_a_table_that_is_known_saves_reading_the_base_and_must_fit_it(tmp_path: Path):
    base, tuned = pair(torch.float32)
    source = MemoryTensors(base)
    table = ModelTable(source.infos, dict.fromkeys(source.infos, "known"))
    delta = add(tmp_path / "d", base, tuned, base_table=table)
    assert delta.base.digests["w"] == "known"
    other = ModelTable({**source.infos, "w": TensorInfo("F32", (1,))}, table.digests)
    with pytest.raises(WrongBase, match="'w'"):
        add(tmp_path / "e", base, tuned, base_table=other)


def test_progress_is_told_of_every_entry_twice(tmp_path: Path):
    seen: dict[str, int] = {}

    def progress(name: str, entries: int) -> None:
        seen[name] = seen.get(name, 0) + entries

    add(tmp_path / "d", *pair(torch.float32), progress=progress)
    assert seen["w"] == 2 * 1000


def test_any_program_reads_the_values_and_the_metadata(tmp_path: Path):
    base, tuned = pair(torch.float32)
    add(tmp_path / "d", base, tuned, dtype="BF16")
    assert torch.equal(load_file(tmp_path / "d")["w"], (tuned["w"] - base["w"]).bfloat16())
    with safe_open(tmp_path / "d", "pt") as file:
        metadata = file.metadata()
    assert (metadata["deltakit"], metadata["kind"], metadata["role"]) == ("1", "delta", "add")
    assert (metadata["task"], metadata["exact"]) == ("trec", "false")
    assert metadata["base"] == MemoryTensors(base).fingerprint()
    assert float(metadata["density"]) == Delta.open(tmp_path / "d").density


def golden_models() -> tuple[Tensors, Tensors]:
    zeros = {"bits": torch.zeros(16), "dense": torch.zeros(2), "few": torch.zeros(70)}
    tuned = {name: tensor.clone() for name, tensor in zeros.items()}
    tuned["bits"][[1, 3, 5, 8, 9]] = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    tuned["dense"][:] = torch.tensor([0.5, -0.5])
    tuned["few"][[7, 69]] = torch.tensor([0.25, -0.25])
    return zeros, tuned


def test_the_bytes_of_a_delta_are_the_golden_ones(tmp_path: Path):
    add(tmp_path / "d", *golden_models())
    raw = (tmp_path / "d").read_bytes()
    assert raw[:8] == struct.pack("<Q", 4088)
    assert raw[8:4096].decode().rstrip(" ") == GOLDEN_HEADER
    assert raw[4096:] == b"".join([
        struct.pack("<5f", 1, -2, 3, -4, 5),  # bits.values
        struct.pack("<2f", 0.5, -0.5),  # dense
        struct.pack("<2I", 7, 69),  # few.indices
        struct.pack("<2f", 0.25, -0.25),  # few.values
        bytes([0b00101010, 0b00000011]),  # bits.bitmask
    ])  # fmt: skip


GOLDEN_HEADER = (
    '{"__metadata__":{"role":"add","task":"trec","base_tensors":"{\\"bits\\":[\\"F32\\",[16],\\"4d00'
    '6976636a8696d909a630a4081aad4d7c50f81afdee04020bf05086ab6a55\\"],\\"dense\\":[\\"F32\\",[2],\\"7'
    '1e0a99173564931c0b8acc52d2685a8e39c64dc52e3d02390fdac2a12b155cb\\"],\\"few\\":[\\"F32\\",[70],\\'
    '"56a94c971f0ddef0eb529b2fd2ce4415e9575479173986674b1dcd52ebca41f6\\"]}","recipe":"{\\"mask\\"'
    ':\\"none\\"}","deltakit":"1","kind":"delta","base":"2ff6a95ee7ead76b208ab1187fbe166bd13cfea1'
    'f2a219a6c34bf583223e14e8","exact":"true","density":"0.10227272727272728"},"bits.values":{"'
    'dtype":"F32","shape":[5],"data_offsets":[0,20]},"dense":{"dtype":"F32","shape":[2],"data_o'
    'ffsets":[20,28]},"few.indices":{"dtype":"U32","shape":[2],"data_offsets":[28,36]},"few.val'
    'ues":{"dtype":"F32","shape":[2],"data_offsets":[36,44]},"bits.bitmask":{"dtype":"U8","shap'
    'e":[2],"data_offsets":[44,46]}}'
)


def test_the_bytes_of_a_masked_and_of_a_lossless_delta_never_change(tmp_path: Path):
    base, tuned = golden_models()
    add(tmp_path / "d", base, tuned, mask=RandomMask(0.5, 6, "trec"))
    assert [t.codec for t in Delta.open(tmp_path / "d").tensors.values()] == [
        "bitmask",
        "seed",
        "indices",
    ]
    assert (
        MemoryTensors({"d": file_bytes(tmp_path / "d")}).digest("d")
        == "98502ad9a7c70fc78360747b5e3fb992aed56a414a221d49932cbf3aa1865127"
    )
    write_replace(tmp_path / "r", MemoryTensors(base), MemoryTensors(tuned), task="trec")
    assert (
        MemoryTensors({"r": file_bytes(tmp_path / "r")}).digest("r")
        == "05b30e3f8aac2639b6e9589c01b2381aa631e4492aceca63772c54ac1a6b13f1"
    )


MEMORY = """
import resource, sys, torch
from pathlib import Path
from deltakit.diff import write_add, write_replace
from deltakit.mask import Mask, RandomMask, save_bits
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.writer import SafetensorsWriter

folder, numel = Path(sys.argv[1]), 40_000_000
for name, seed in (("base", 0), ("tuned", 1)):
    (folder / name).mkdir()
    with SafetensorsWriter(
        folder / name / "model.safetensors", {"w": TensorInfo("BF16", (numel,))}
    ) as writer:
        generator = torch.Generator().manual_seed(seed)
        for at in range(0, numel, 1_000_000):
            part = torch.randn(1_000_000, generator=generator).bfloat16().view(torch.uint8)
            writer.write("w", at * 2, memoryview(part.numpy()))
base, tuned = Checkpoint.open(folder / "base"), Checkpoint.open(folder / "tuned")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_add(folder / "d", base, tuned, task="t", mask=RandomMask(0.3, 0, "t"))
write_replace(folder / "r", base, tuned, task="t")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_the_diff_of_a_large_tensor_takes_a_few_blocks_of_memory(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40 * delta_file.BLOCK  # bytes; the tensor alone has 80 million
