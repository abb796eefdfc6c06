"""A sparse parameter read by blocks is the dense one; a hostile file is refused by name."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltakit.errors import BadFile
from deltakit.rng import Draws
from deltakit.stored import StoredSparse
from deltakit.tensors.codec import Codec, pack
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.runs import CHUNK, Runs
from deltakit.tensors.sparse import SparseTensor
from deltakit.tensors.writer import SafetensorsWriter
from tests.kernels import without_kernels

SEED, DENSITY = Draws(5, "trec", "w"), 0.3
SHAPES = [(), (1,), (64,), (0, 3), (3, 5, 7), (2 * CHUNK + 13,), (3, CHUNK)]
CODECS: list[Codec] = ["dense", "bitmask", "indices", "seed"]


def write(path: Path, parts: dict[str, np.ndarray]) -> SafetensorsFile:
    names = {"u1": "U8", "f4": "F32", "u4": "U32", "u8": "U64", "i4": "I32", "i8": "I64"}
    infos = {n: TensorInfo(names[part.dtype.str[1:]], part.shape) for n, part in parts.items()}
    path.unlink(missing_ok=True)
    with SafetensorsWriter(path, infos) as writer:
        for name, part in parts.items():
            writer.write(name, 0, part.tobytes())
    return SafetensorsFile(path)


def keep(path: Path, kind: Codec, whole: np.ndarray, kept: np.ndarray) -> SparseTensor:
    """`whole` under a codec: its values where kept, zero elsewhere."""
    flat = whole.reshape(-1)
    parts = {"w": np.where(kept, flat, np.float32(0)).reshape(whole.shape)}
    if kind != "dense":
        parts = {"w.values": flat[kept]}
    if kind == "bitmask":
        parts["w.bitmask"] = pack(kept)
    if kind == "indices":
        parts["w.indices"] = np.flatnonzero(kept).astype("<u4")
    draws = (SEED, DENSITY) if kind == "seed" else None
    return SparseTensor(write(path, parts), "w", kind, whole.shape, draws)


def example(shape: tuple[int, ...], kind: Codec) -> tuple[np.ndarray, np.ndarray]:
    whole = np.random.default_rng(0).standard_normal(shape).astype(np.float32).reshape(shape)
    return whole, SEED.keep(0, whole.size, DENSITY)


def ranges(numel: int) -> list[tuple[int, int]]:
    edges = [0, 1, 7, 8, 9, CHUNK - 1, CHUNK, CHUNK + 3, 2 * CHUNK, numel - 9, numel - 1, numel]
    inside = sorted({edge for edge in edges if 0 <= edge <= numel})
    return [(a, b) for a in inside for b in inside if a <= b]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", CODECS)
def test_any_range_under_any_codec_is_the_dense_slice(
    tmp_path: Path, kind: Codec, shape: tuple[int, ...]
):
    whole, kept = example(shape, kind)
    tensor = keep(tmp_path / "x", kind, whole, kept)
    dense = torch.from_numpy(np.where(kept, whole.reshape(-1), np.float32(0)))
    for start, stop in ranges(whole.size):
        out = torch.zeros(stop - start)
        tensor.add_to(out, start)
        assert torch.equal(out, dense[start:stop])
        expected = np.ones(stop - start) if kind == "dense" else kept[start:stop]
        assert np.array_equal(tensor.kept(start, stop), expected)


@pytest.mark.parametrize("kind", CODECS)
def test_values_are_put_over_what_is_there_or_less_what_is_given(tmp_path: Path, kind: Codec):
    whole, kept = example((100,), kind)
    tensor = keep(tmp_path / "x", kind, whole, kept)
    here = np.ones(100, dtype=bool) if kind == "dense" else kept
    value = np.where(kept, whole, np.float32(0))
    out = torch.full((90,), 9.0)
    tensor.add_to(out, 10)
    assert np.array_equal(out.numpy(), np.where(here, value, np.float32(9))[10:])
    minus = torch.arange(90, dtype=torch.float32)
    out = torch.full((90,), 9.0)
    tensor.add_to(out, 10, minus=minus)
    assert np.array_equal(
        out.numpy(), np.where(here[10:], value[10:] - minus.numpy(), np.float32(9))
    )


@pytest.mark.parametrize("dtype", ["<u4", "<u8", "<i4", "<i8"])
def test_indices_of_any_width_are_read(tmp_path: Path, dtype: str):
    parts = {"w.values": np.float32([1, 2]), "w.indices": np.array([0, 9], dtype=dtype)}
    out = torch.zeros(10)
    SparseTensor(write(tmp_path / "x", parts), "w", "indices", (10,)).add_to(out, 0)
    assert out.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize(("start", "stop"), [(0, 64), (1, 900), (70, 77), (500, 1000), (9, 9)])
def test_bits_of_indices_are_the_same_with_kernels_and_without(
    tmp_path: Path, dtype: str, start: int, stop: int
):
    kept = np.random.default_rng(0).random(1000) < 0.2
    kept[[start, min(stop, 999)]] = True
    indices = np.flatnonzero(kept).astype(dtype)
    parts = {"w.values": np.ones(len(indices), dtype=np.float32), "w.indices": indices}
    tensor = SparseTensor(write(tmp_path / "x", parts), "w", "indices", (1000,))
    expected = pack(kept[start:stop])
    for kernels_of in (nullcontext, without_kernels):
        with kernels_of():
            stored = tensor.stored(start, stop, np.empty(8 * 1000, dtype=np.uint8))
        assert isinstance(stored, StoredSparse)
        assert stored.bits.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("backwards", [False, True])
def test_blocks_of_many_threads_in_any_order_are_the_dense_slices(
    tmp_path: Path, kind: Codec, backwards: bool
):
    whole, kept = example((2_500_013,), kind)  # several runs, the last of them short
    tensor = keep(tmp_path / "x", kind, whole, kept)
    dense = torch.from_numpy(np.where(kept, whole, np.float32(0)))
    starts = list(range(0, whole.size, 300_001))

    def same(start: int) -> bool:
        stop = min(start + 300_001, whole.size)
        raw = np.empty(8 * (stop - start), dtype=np.uint8)
        stored = tensor.stored(start, stop, raw)
        return torch.equal(stored.tensor, dense[start:stop])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, starts[::-1] if backwards else starts, timeout=60))
    if isinstance(tensor._places, Runs):  # what is remembered does not grow with the parameters
        assert not tensor._places._runs


@pytest.mark.parametrize("kind", ["bitmask", "seed"])
@pytest.mark.parametrize("more", [-1, 1])
def test_values_that_do_not_fit_the_bits_are_found_at_the_last_block(
    tmp_path: Path, kind: Codec, more: int
):
    whole, kept = example((2_500_013,), kind)
    count = int(kept.sum()) + more
    parts = {"w.values": np.zeros(count, dtype=np.float32)}
    if kind == "bitmask":
        parts["w.bitmask"] = pack(kept)
    draws = (SEED, DENSITY) if kind == "seed" else None
    tensor = SparseTensor(write(tmp_path / "x", parts), "w", kind, whole.shape, draws)
    tensor.add_to(torch.zeros(1000), 0)
    for _ in range(2):
        with pytest.raises(BadFile, match="parameter 'w'"):
            tensor.add_to(torch.zeros(1000), whole.size - 1000)


def refused(path: Path, kind: Codec, shape: tuple[int, ...], parts: dict[str, np.ndarray]) -> None:
    """Opening or the first look must refuse, naming the parameter, whatever range is asked."""
    file = write(path, parts)
    draws = (SEED, DENSITY) if kind == "seed" else None
    for start, stop in [(0, 10), (9, 10), (3, 3), (0, 0)]:
        with pytest.raises(BadFile, match="parameter 'w'"):
            SparseTensor(file, "w", kind, shape, draws).add_to(torch.zeros(stop - start), start)


TWO = np.float32([1, 2])


@pytest.mark.parametrize(
    "bits",
    [[1, 0], [0b111, 0], [0, 0], [1, 0b110], [3, 0b100], [3, 0x80], [3], [3, 0, 0], []],
)  # fmt: skip
def test_a_bitmask_that_does_not_fit_its_values_is_refused(tmp_path: Path, bits: list[int]):
    parts = {"w.values": TWO, "w.bitmask": np.array(bits, dtype=np.uint8)}
    refused(tmp_path / "x", "bitmask", (10,), parts)


def test_a_bitmask_of_another_dtype_is_refused(tmp_path: Path):
    parts = {"w.values": TWO, "w.bitmask": np.array([3, 0], dtype="<u4")}
    refused(tmp_path / "x", "bitmask", (10,), parts)


BAD_INDICES = [
    [3, 3], [4, 3], [0, 10], [10, 11], [0], [0, 1, 2], [], [-1, 0], [0, -1], [-2, -1],
    [5, -(2**31)], [0, 2**31 - 1],
]  # fmt: skip
BAD_WIDE_INDICES = [[5, -(2**63)], [-(2**63), 5], [-(2**63), 5 - 2**63], [0, 2**32], [0, 2**63 - 1]]


@pytest.mark.parametrize(
    ("dtype", "indices"),
    [(dtype, indices) for dtype in ("<i4", "<u4", "<i8", "<u8") for indices in BAD_INDICES]
    + [(dtype, indices) for dtype in ("<i8", "<u8") for indices in BAD_WIDE_INDICES],
)
def test_indices_that_are_not_ascending_positions_are_refused(
    tmp_path: Path, indices: list[int], dtype: str
):
    array = np.array(indices, dtype=f"<i{dtype[-1]}").view(dtype)  # unsigned: the same bits
    refused(tmp_path / "x", "indices", (10,), {"w.values": TWO, "w.indices": array})


def test_indices_that_are_floats_are_refused(tmp_path: Path):
    refused(tmp_path / "x", "indices", (10,), {"w.values": TWO, "w.indices": TWO})


def test_indices_out_of_order_across_a_million_are_refused(tmp_path: Path):
    indices = np.arange((1 << 20) + 2, dtype="<u4")
    indices[1 << 20] = 5
    parts = {"w.values": np.zeros(len(indices), dtype=np.float32), "w.indices": indices}
    refused(tmp_path / "x", "indices", (1 << 21,), parts)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_draws_that_are_not_as_many_as_the_values_are_refused(tmp_path: Path, count: int):
    assert SEED.keep(0, 10, DENSITY).sum() not in (0, 1, 9)
    refused(tmp_path / "x", "seed", (10,), {"w.values": np.zeros(count, dtype=np.float32)})


def test_a_seed_codec_without_a_seed_is_refused(tmp_path: Path):
    file = write(tmp_path / "x", {"w.values": TWO})
    with pytest.raises(BadFile, match="parameter 'w'"):
        SparseTensor(file, "w", "seed", (10,), None)


@pytest.mark.parametrize("shape", [(11,), (10, 1), (5, 2), ()])
def test_a_dense_tensor_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]):
    file = write(tmp_path / "x", {"w": np.zeros(10, dtype=np.float32)})
    with pytest.raises(BadFile, match="parameter 'w'"):
        SparseTensor(file, "w", "dense", shape)


def test_values_that_are_a_matrix_are_refused(tmp_path: Path):
    parts = {"w.values": TWO.reshape(1, 2), "w.bitmask": np.array([3, 0], dtype=np.uint8)}
    refused(tmp_path / "x", "bitmask", (10,), parts)


@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=6),
    st.integers(0, 6),
    st.integers(0, 70_000),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_indices_are_read_as_they_are_or_refused(
    tmp_path: Path, indices: Sequence[int], count: int, numel: int
):
    values = np.arange(1, count + 1, dtype=np.float32)
    file = write(tmp_path / "x", {"w.values": values, "w.indices": np.array(indices, dtype="<u4")})
    out = torch.zeros(numel)
    try:
        SparseTensor(file, "w", "indices", (numel,)).add_to(out, 0)
    except BadFile:
        assert (
            list(indices) != sorted(set(indices)) or len(indices) != count or max(indices) >= numel
        )
    else:
        assert out.nonzero().flatten().tolist() == list(indices)
        assert out[out != 0].tolist() == values.tolist()
