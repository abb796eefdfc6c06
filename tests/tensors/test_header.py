"""The header parser: what it refuses, by name, and that it agrees with the safetensors library."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deltakit.dtypes import DTYPES
from deltakit.errors import BadFile
from deltakit.tensors import header
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.writer import SafetensorsWriter

TORCH_DTYPES = {
    name: getattr(torch, torch_name)
    for name, (_, torch_name) in DTYPES.items()
    if torch_name is not None
}


def parse(text: str | bytes, nbytes: int = 0) -> header.Header:
    raw = text if isinstance(text, bytes) else text.encode()
    return header.parse(raw, 8 + len(raw) + nbytes)


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


def test_a_header_gives_infos_absolute_offsets_and_metadata():
    text = f'{{"__metadata__":{{"a":"b"}},"y":{entry("U8", [3], [8, 11])},"x":{entry()}}}'
    found = parse(text, 11)
    assert found.infos == {"x": TensorInfo("F32", (2,)), "y": TensorInfo("U8", (3,))}
    assert found.offsets == {"x": 8 + len(text), "y": 8 + len(text) + 8}
    assert found.metadata == {"a": "b"}


REFUSED = {
    "overlap": (
        f'{{"x":{entry()},"wrong":{entry(offsets=[4, 12])}}}',
        12,
        "'wrong' overlaps the one before it",
    ),
    "same range twice": (f'{{"a":{entry()},"wrong":{entry()}}}', 8, "'wrong' overlaps"),
    "hole": (f'{{"x":{entry()},"wrong":{entry(offsets=[9, 17])}}}', 17, "'wrong' leaves a hole"),
    "hole at the start": (f'{{"wrong":{entry(offsets=[1, 9])}}}', 9, "'wrong' leaves a hole"),
    "trailing bytes": (f'{{"x":{entry()}}}', 9, "bytes trail"),
    "missing bytes": (f'{{"x":{entry()}}}', 7, "truncated"),
    "reversed": (f'{{"wrong":{entry(shape=[0], offsets=[8, 0])}}}', 8, "'wrong'"),
    "negative offset": (f'{{"wrong":{entry(offsets=[-8, 0])}}}', 0, "'wrong'"),
    "huge offset": (f'{{"wrong":{entry(offsets=[0, 1 << 63])}}}', 0, "'wrong'"),
    "three offsets": (f'{{"wrong":{entry(offsets=[0, 8, 8])}}}', 8, "'wrong'"),
    "size against shape": (f'{{"wrong":{entry(shape=[3])}}}', 8, "'wrong'"),
    "half a byte": (f'{{"wrong":{entry("F4", [3], [0, 1])}}}', 1, "'wrong'"),
    "unknown dtype": (f'{{"wrong":{entry("F128", [1], [0, 16])}}}', 16, "'wrong'"),
    "dtype of another type": (f'{{"wrong":{entry(["F32"])}}}', 8, "'wrong'"),
    "float size": (f'{{"wrong":{entry(shape=[2.0])}}}', 8, "2.0"),
    "float offset": ('{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1e0]}}', 1, "1e0"),
    "bool size": (f'{{"wrong":{entry("U8", [True], [0, 1])}}}', 1, "'wrong'"),
    "bool offset": (f'{{"wrong":{entry("U8", [1], [False, True])}}}', 1, "'wrong'"),
    "string size": (f'{{"wrong":{entry(shape=["2"])}}}', 8, "'wrong'"),
    "null shape": (f'{{"wrong":{entry(shape=None)}}}', 8, "'wrong'"),
    "negative size": (f'{{"wrong":{entry(shape=[-1, -2])}}}', 8, "'wrong'"),
    "NaN": ('{"x":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', 1, "NaN"),
    "Infinity": ('{"x":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}}', 1, "Infinity"),
    "dimension over 2^40": (f'{{"wrong":{entry(shape=[(1 << 40) + 1])}}}', 8, "'wrong'"),
    "product over 2^40": (f'{{"wrong":{entry(shape=[1 << 21, 1 << 20])}}}', 8, "'wrong'"),
    "zero hides a product": (
        f'{{"wrong":{entry(shape=[0, 1 << 40, 1 << 40], offsets=[0, 0])}}}',
        0,
        "'wrong'",
    ),
    "65 dimensions": (f'{{"wrong":{entry(shape=[1] * 65, offsets=[0, 4])}}}', 4, "'wrong'"),
    "metadata not strings": ('{"__metadata__":{"a":1}}', 0, "__metadata__"),
    "metadata nested": ('{"__metadata__":{"a":{"b":"c"}}}', 0, "__metadata__"),
    "metadata a list": ('{"__metadata__":["a"]}', 0, "__metadata__"),
    "half a surrogate in metadata": (r'{"__metadata__":{"a":"\ud800"}}', 0, "__metadata__"),
    "duplicate tensor": (f'{{"wrong":{entry()},"wrong":{entry()}}}', 8, "'wrong'"),
    "duplicate metadata": ('{"__metadata__":{},"__metadata__":{}}', 0, "'__metadata__'"),
    "duplicate metadata key": ('{"__metadata__":{"k":"a","k":"b"}}', 0, "'k'"),
    "duplicate field": (
        '{"x":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        1,
        "'dtype'",
    ),
    "missing field": ('{"wrong":{"dtype":"U8","shape":[1]}}', 1, "'wrong'"),
    "unknown field": (
        '{"wrong":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":0}}',
        1,
        "'wrong'",
    ),
    "entry not an object": ('{"wrong":[1]}', 0, "'wrong'"),
    "NUL in a name": (rf'{{"a\u0000b":{entry()}}}', 8, r"a\x00b"),
    "half a surrogate in a name": (rf'{{"a\udc00":{entry()}}}', 8, r"a\udc00"),
    "bad UTF-8": (b'{"\xff":{}}', 0, "UTF-8"),
    "not JSON": ('{"x":', 0, "JSON"),
    "a number of 5000 digits": (f'{{"x":{"9" * 5000}}}', 0, "JSON"),
    "100000 brackets": ('{"x":' + "[" * 100_000, 0, "JSON"),
    "white space first": (" {}", 0, "begin with {"),
    "a list": ("[]", 0, "begin with {"),
    "a byte-order mark": ("\ufeff{}", 0, "begin with {"),
    "two documents": ("{}{}", 0, "JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_header_is_refused_by_name(case: str):
    text, nbytes, words = REFUSED[case]
    with pytest.raises(BadFile) as caught:
        parse(text, nbytes)
    assert words in str(caught.value)


def test_a_header_of_too_many_tensors_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(header, "MOST_TENSORS", 2)
    names = {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(3)}
    with pytest.raises(BadFile, match="too many tensors"):
        parse(json.dumps(names))


def test_a_shape_of_very_many_huge_sizes_is_refused_unmultiplied():
    text = f'{{"x":{entry(shape=[1 << 40] * 300_000)}}}'
    with pytest.raises(BadFile, match="dimensions"):  # the product would take minutes
        parse(text, 8)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_random_bytes_are_a_bad_file_and_nothing_else(raw: bytes):
    with pytest.raises(BadFile):
        parse(b"{" + raw + b"\x00", 0)


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["dtype", "shape", "data_offsets", "more"]),
        JSON_VALUE | st.sampled_from(["F32", "U8", "F4", [2], [0, 8], [8, 8], [-1], [1 << 50]]),
    ),
    st.integers(0, 20),
)
@settings(max_examples=300)
def test_any_entry_is_read_or_a_bad_file(table: dict, nbytes: int):
    try:
        found = parse(json.dumps({"x": table}), nbytes)
    except BadFile:
        return
    assert found.infos["x"].nbytes == nbytes


@given(data=st.data())
@settings(max_examples=300)
def test_a_changed_byte_of_a_header_is_read_or_a_bad_file(data: st.DataObject):
    text = f'{{"__metadata__":{{"a":"b"}},"x":{entry()},"y":{entry("U8", [3], [8, 11])}}}'
    raw = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse(bytes(raw), 11)
    except BadFile:
        return
    assert sum(info.nbytes for info in found.infos.values()) == 11


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_what_the_library_writes_is_read_byte_for_byte(tmp_path: Path, dtype: str):
    kind = TORCH_DTYPES[dtype]
    raw = torch.arange(6 * kind.itemsize, dtype=torch.uint8) % (2 if dtype == "BOOL" else 251)
    tensors = {"a": raw.view(kind).reshape(2, 3), "b.scalar": raw.view(kind)[1].clone()}
    tensors["c.empty"] = torch.empty(0, 3, dtype=kind)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.header.infos == {
        "a": TensorInfo(dtype, (2, 3)),
        "b.scalar": TensorInfo(dtype, ()),
        "c.empty": TensorInfo(dtype, (0, 3)),
    }
    for name, tensor in tensors.items():
        read = bytearray(tensor.nbytes)
        file.read(name, 0, memoryview(read))
        assert bytes(read) == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_what_is_written_the_library_reads_byte_for_byte(tmp_path: Path, dtype: str):
    kind = TORCH_DTYPES[dtype]
    raw = bytes(i % (2 if dtype == "BOOL" else 251) for i in range(6 * kind.itemsize))
    path = tmp_path / "x.safetensors"
    infos = {"a": TensorInfo(dtype, (2, 3)), "s": TensorInfo(dtype, ())}
    with SafetensorsWriter(path, infos, {"k": "v"}) as writer:
        writer.write("a", 0, raw)
        writer.write("s", 0, raw[: kind.itemsize])
    found = load_file(path)
    assert found["a"].dtype == kind
    assert found["a"].shape == (2, 3)
    assert found["a"].reshape(-1).view(torch.uint8).numpy().tobytes() == raw
    assert found["s"].shape == ()
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"k": "v"}


GOLDEN = (
    '{"__metadata__":{"who":"é"},'
    '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    '"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}'
)


def test_the_bytes_of_a_file_are_the_golden_ones(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    infos = {"b": TensorInfo("U8", (3,)), "w": TensorInfo("F32", (2,))}
    with SafetensorsWriter(path, infos, {"who": "é"}) as writer:
        writer.write("b", 0, b"\x01\x02\x03")
        writer.write("w", 0, struct.pack("<2f", 1.0, -2.0))
    expected = struct.pack("<Q", 4088) + GOLDEN.encode().ljust(4088)
    expected += struct.pack("<2f", 1.0, -2.0) + b"\x01\x02\x03"
    assert path.read_bytes() == expected


@pytest.mark.parametrize("names", [["x", "x"], ["__metadata__"]])
def test_a_name_that_would_stand_twice_is_not_written(names: list[str]):
    with pytest.raises(BadFile, match="twice"):
        header.build([(name, TensorInfo("U8", (1,))) for name in names], {})


@given(
    st.dictionaries(
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=9),
        st.tuples(
            st.sampled_from(sorted(TORCH_DTYPES)), st.lists(st.integers(0, 4), max_size=3)
        ).map(lambda pair: TensorInfo(pair[0], tuple(pair[1]))),
        max_size=5,
    ),
    st.dictionaries(
        st.text(st.characters(blacklist_categories=["Cs"])), st.text('ab\n"é'), max_size=3
    ),
)
@settings(max_examples=100)
def test_what_is_built_is_parsed_back(infos: dict[str, TensorInfo], metadata: dict[str, str]):
    raw = header.build(sorted(infos.items()), metadata)
    assert len(raw) % header.ALIGNMENT == 0
    found = header.parse(raw[8:], len(raw) + sum(info.nbytes for info in infos.values()))
    assert found.infos == infos
    assert found.metadata == metadata
