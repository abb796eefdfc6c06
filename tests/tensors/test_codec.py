"""How a sparse tensor is stored: the smallest way, and names that say which."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltakit.dtypes import DTYPES
from deltakit.errors import BadFile, BadValue
from deltakit.tensors import codec
from deltakit.tensors.header import TensorInfo

TORCH_NAMES = [name for name, (_, torch_name) in DTYPES.items() if torch_name]


def nbytes(kind: codec.Codec, dtype: str, numel: int, count: int) -> int:
    return sum(i.nbytes for i in codec.stored("w", kind, dtype, (numel,), count).values())


@given(st.sampled_from(TORCH_NAMES), st.integers(0, 1 << 34), st.floats(0, 1))
@settings(max_examples=200)
def test_the_codec_chosen_is_the_smallest(dtype: str, numel: int, density: float):
    count = int(numel * density)
    kinds: list[codec.Codec] = ["dense", "bitmask", "indices"]
    best = min(nbytes(kind, dtype, numel, count) for kind in kinds)
    assert nbytes(codec.choose(dtype, numel, count), dtype, numel, count) == best


@pytest.mark.parametrize(
    ("numel", "count", "kind"),
    [
        (1000, 1000, "dense"),
        (1000, 938, "dense"),  # 2 * 938 + 125 > 2000
        (1000, 937, "bitmask"),
        (1000, 32, "bitmask"),  # 64 + 125 < 32 * 6
        (1000, 31, "indices"),
        (1, 1, "dense"),
        (0, 0, "dense"),
    ],
)
def test_where_the_codecs_meet_for_two_byte_values(numel: int, count: int, kind: str):
    assert codec.choose("BF16", numel, count) == kind


def test_indices_are_32_bits_where_they_suffice():
    assert codec.index_dtype(1 << 32) == "U32"
    assert codec.index_dtype((1 << 32) + 1) == "U64"


def test_names_tell_the_codec():
    info = TensorInfo("U8", (1,))
    names = [
        "a", "b.values", "b.bitmask", "c.values", "c.indices", "d.values", "e.weight", "values",
    ]  # fmt: skip
    assert codec.codecs(dict.fromkeys(names, info)) == {
        "a": "dense",
        "b": "bitmask",
        "c": "indices",
        "d": "seed",
        "e.weight": "dense",
        "values": "dense",
    }


@pytest.mark.parametrize(
    "names", [["a.bitmask"], ["a.indices"], ["a.values", "a.bitmask", "a.indices"]]
)
def test_parts_that_do_not_belong_together_are_refused(names: list[str]):
    with pytest.raises(BadFile, match="a"):
        codec.codecs(dict.fromkeys(names, TensorInfo("U8", (1,))))


@pytest.mark.parametrize("name", ["a.values", "a.bitmask", "a.indices"])
def test_a_parameter_named_like_a_part_is_refused_by_name(name: str):
    codec.check_names(["a", "values", "a.values.weight"])
    with pytest.raises(BadValue, match=name.replace(".", "[.]")):
        codec.check_names(["a", name])


@given(st.lists(st.booleans(), max_size=40), st.data())
@settings(max_examples=100)
def test_bits_go_there_and_back_from_any_position(bits: list[bool], data: st.DataObject):
    packed = codec.pack(np.array(bits, dtype=np.bool_))
    start = data.draw(st.integers(0, len(bits)))
    found = codec.unpack(packed[start // 8 :], start % 8, len(bits) - start)
    assert found.tolist() == bits[start:]


def test_the_first_entry_is_the_lowest_bit():
    assert codec.pack(
        np.array([True, False, False, False, True, False, False, False, True])
    ).tolist() == [17, 1]


@pytest.mark.parametrize("dtype", TORCH_NAMES)
def test_values_of_any_dtype_are_put_in_place_bit_for_bit(dtype: str):
    kind = getattr(torch, str(DTYPES[dtype][1]))
    size = kind.itemsize
    out = torch.zeros(5 * size, dtype=torch.uint8)
    values = torch.arange(1, 2 * size + 1, dtype=torch.uint8) % (2 if dtype == "BOOL" else 251)
    kept = np.array([False, True, False, False, True])
    codec.scatter(values.view(kind), kept, out.view(kind))
    expected = torch.zeros(5, size, dtype=torch.uint8)
    expected[1], expected[4] = values[:size], values[size:]
    assert torch.equal(out, expected.reshape(-1))
