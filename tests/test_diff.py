"""Taking an additive delta: the naive float32 formula rounded once, exact or said not to be."""

import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from deltakit import diff
from deltakit.delta import Delta
from deltakit.diff import write_add, write_replace
from deltakit.difference import AddDifference
from deltakit.errors import (
    AlreadyThere,
    BadValue,
    DtypeMismatch,
    InputChanged,
    NamesDiffer,
    NonFinite,
    ShapeMismatch,
    WrongBase,
)
from deltakit.mask import LargestMask, Mask, RandomMask, save_bits
from deltakit.provenance import ModelTable
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import MemoryTensors
from tests.failing import FailingFiles
from tests.models import write_model

Tensors = Mapping[str, torch.Tensor]


def add(path: Path, base: Tensors, tuned: Tensors, **options: object) -> Delta:
    path.unlink(missing_ok=True)
    write_add(path, MemoryTensors(base), MemoryTensors(tuned), task="trec", **options)  # type: ignore[arg-type]
    return Delta.open(path)


def blocks(delta: Delta, base: Tensors, name: str) -> torch.Tensor:
    """The delta of a parameter as a merge reads it, in uneven blocks."""
    work = torch.float64 if base[name].dtype == torch.float64 else torch.float32
    flat = base[name].reshape(-1).to(work)
    parts = []
    for start in range(0, len(flat), 37):
        parts.append(torch.full((min(37, len(flat) - start),), 9.0, dtype=work))
        delta.block_into(parts[-1], name, start, flat[start : start + 37])
    return torch.cat(parts) if parts else flat


def pair(dtype: torch.dtype, seed: int = 0, changed: float = 1.0) -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(seed)
    base, tuned = {}, {}
    for name, shape in {"w": (40, 25), "b": (7,), "s": (), "e": (0, 3), "same": (5,)}.items():
        base[name] = torch.randn(shape, generator=generator).to(dtype)
        step = torch.randn(shape, generator=generator) * 0.01
        step *= torch.rand(shape, generator=generator) < changed
        tuned[name] = base[name] if name == "same" else (base[name].float() + step).to(dtype)
    return base, tuned


FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


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
    assert list(add(tmp_path / "d", base, tuned)) == ["w"]


def masks(path: Path, base: Tensors, tuned: Tensors) -> dict[str, Mask]:
    infos = MemoryTensors(base).infos
    save_bits(path, RandomMask(0.35, 3, "other"), infos)
    source = AddDifference(MemoryTensors(base), MemoryTensors(tuned), None, None)
    return {
        "random": RandomMask(0.3, 1, "trec"),
        "thick": RandomMask(0.97, 1, "trec"),
        "all": RandomMask(1.0, 1, "trec"),
        "stored": Mask.open(path),
        "largest": LargestMask(0.2, infos, source.values),
    }


@pytest.mark.parametrize("kind", ["random", "thick", "all", "stored", "largest"])
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
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
        monkeypatch.setattr(diff, "BLOCK", block)
        for mask in (None, RandomMask(0.5, 1, "t")):
            add(tmp_path / "d", base, tuned, mask=mask)
            found.add((mask, (tmp_path / "d").read_bytes()))
    assert len(found) == 2


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
            write_add(tmp_path / "d", base, tuned, task="t", files=files)
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
    add(tmp_path / "d", base, tuned, mask=RandomMask(0.5, 1, "trec"))
    assert [t.codec for t in Delta.open(tmp_path / "d").tensors.values()] == [
        "bitmask",
        "seed",
        "indices",
    ]
    assert (
        MemoryTensors({"d": file_bytes(tmp_path / "d")}).digest("d")
        == "500d2e795ca037fd7d8aecaa34e175d208932306244214d715573a6d195868b9"
    )
    write_replace(tmp_path / "r", MemoryTensors(base), MemoryTensors(tuned), task="trec")
    assert (
        MemoryTensors({"r": file_bytes(tmp_path / "r")}).digest("r")
        == "05b30e3f8aac2639b6e9589c01b2381aa631e4492aceca63772c54ac1a6b13f1"
    )


def file_bytes(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


MEMORY = """
import resource, sys, torch
from pathlib import Path
from deltakit.diff import write_add, write_replace
from deltakit.mask import RandomMask
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
    assert int(done.stdout) < 40 * diff.BLOCK  # bytes; the tensor alone has 80 million
