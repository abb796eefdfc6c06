"""The header of a safetensors file: a parser stricter than the library's, and a builder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from deltakit.dtypes import DTYPES
from deltakit.errors import BadFile

MOST_HEADER_BYTES = 25_000_000
MOST_TENSORS = 1_000_000
MOST_ELEMENTS = 1 << 40
MOST_DIMENSIONS = 64  # what torch can hold; also keeps the product of the sizes a small number
ALIGNMENT = 4096


class TensorInfo(NamedTuple):
    """What a header says of one tensor: safetensors dtype, shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.dtype][0] // 8


@dataclass(frozen=True)
class Header:
    """A parsed header: tensor infos, byte ranges within the file, and the metadata strings."""

    infos: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]  # absolute offset of each tensor's first byte in the file
    metadata: Mapping[str, str]
    data_start: int
    file_size: int


def parse(raw: bytes, file_size: int) -> Header:
    """Parse header bytes (after the 8-byte length) of a file of `file_size` bytes.

    >>> raw = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    >>> parse(raw, 8 + len(raw) + 8).infos["x"]
    TensorInfo(dtype='F32', shape=(2,))

    Refused with BadFile, naming the tensor: duplicate keys, overlaps, holes, trailing or missing
    bytes, reversed or negative offsets, a size that is not shape x dtype, an unknown dtype,
    numbers that are not plain integers, dimensions or products over 2^40, metadata that is not
    strings, names with NUL, more than a million tensors.
    """
    table = _load(raw)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadFile("__metadata__ is not a map of strings")
    if any(_half_surrogate(text) for pair in metadata.items() for text in pair):
        raise BadFile("__metadata__ holds half a surrogate pair")
    if len(table) > MOST_TENSORS:
        raise BadFile("too many tensors", expected=f"at most {MOST_TENSORS}", got=f"{len(table)}")
    data_start = 8 + len(raw)
    infos: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in table.items():
        info, begin, end = _entry(name, entry)
        infos[name] = info
        spans.append((begin, end, name))
    spans.sort()
    at = 0
    for begin, end, name in spans:
        if begin != at:
            kind = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise BadFile(f"tensor {name!r} {kind}", expected=f"offset {at}", got=f"offset {begin}")
        at = end
    if data_start + at != file_size:
        raise BadFile(
            "the file is truncated" if data_start + at > file_size else "bytes trail the tensors",
            expected=f"{data_start + at} bytes",
            got=f"{file_size} bytes",
            remedy="copy or download the file again",
        )
    offsets = {name: data_start + begin for begin, _, name in spans}
    return Header(infos, offsets, metadata, data_start, file_size)


def _load(raw: bytes) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise BadFile("the header does not begin with {")
    try:
        table: dict[str, Any] = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique_keys,
            parse_constant=_no_constant,
            parse_float=_no_float,
        )
    except UnicodeDecodeError:
        raise BadFile("the header is not valid UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"the header is not valid JSON: {error}") from None
    return table


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a dict; BadFile for a key that stands twice."""
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadFile(f"the key {key!r} stands twice")
            seen.add(key)
    return table


def _no_constant(text: str) -> NoReturn:
    raise BadFile(f"{text} stands in the header where an integer belongs")


def _no_float(text: str) -> NoReturn:
    raise BadFile(f"the float {text} stands in the header where an integer belongs")


def _half_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _integer(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _entry(name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    where = f"tensor {name!r}"
    if "\0" in name or _half_surrogate(name):
        raise BadFile("a tensor name holds NUL or half a surrogate pair", where=repr(name))
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadFile("the entry is malformed", where=where, expected="dtype, shape, data_offsets")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    info = check_info(dtype, shape, where)
    if (
        not isinstance(span, list)
        or len(span) != 2
        or not all(_integer(n, 1 << 62) for n in span)
        or span[0] > span[1]
    ):
        raise BadFile("data_offsets is not [begin, end] with begin <= end", where=where)
    bits = info.numel * DTYPES[dtype][0]
    if bits % 8 or span[1] - span[0] != bits // 8:
        raise BadFile(
            "the byte range does not fit shape and dtype",
            where=where,
            expected=f"{bits / 8:.10g} bytes for {dtype} {shape}",
            got=f"{span[1] - span[0]} bytes",
        )
    return info, span[0], span[1]


def check_info(dtype: Any, shape: Any, where: str) -> TensorInfo:
    """Return dtype and shape as a file gives them; raise BadFile unless a tensor can have them."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadFile(f"unknown dtype {dtype!r}", where=where)
    if not isinstance(shape, list) or not all(_integer(n, MOST_ELEMENTS) for n in shape):
        raise BadFile(
            "the shape is not a list of sizes up to 2^40", where=where, got=f"{shape}"[:80]
        )
    if len(shape) > MOST_DIMENSIONS:
        raise BadFile(
            f"the shape has over {MOST_DIMENSIONS} dimensions", where=where, got=f"{len(shape)}"
        )
    # A zero anywhere makes the product zero, so the others are bounded on their own.
    if math.prod(n or 1 for n in shape) > MOST_ELEMENTS:
        raise BadFile("the shape has over 2^40 elements", where=where, got=f"{shape}"[:80])
    return TensorInfo(dtype, tuple(shape))


def build(infos: Iterable[tuple[str, TensorInfo]], metadata: Mapping[str, str]) -> bytes:
    """Return a file's first bytes (length and header), padded so that data starts at 4096 x n.

    Tensors are laid out in the order given, without holes.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, info in infos:
        if name in table:
            raise BadFile(f"the tensor {name!r} would stand twice in the file")
        end = at + info.nbytes
        table[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, end]}
        at = end
    if not metadata:
        del table["__metadata__"]
    raw = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(8 + len(raw)) % ALIGNMENT)
    if len(raw) > MOST_HEADER_BYTES:
        raise BadFile("the header would be over its cap", expected=f"{MOST_HEADER_BYTES} bytes")
    return len(raw).to_bytes(8, "little") + raw
