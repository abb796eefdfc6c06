"""The dtypes of safetensors: their size, their name in torch, and what may be done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltakit.errors import BadFile, UnknownName, nearest, some

if TYPE_CHECKING:
    import torch

# safetensors name -> (bits of one element, name in torch or None where torch has no such dtype)
DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "bool"),
    "F4": (4, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "U16": (16, "uint16"),
    "I16": (16, "int16"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "U32": (32, "uint32"),
    "I32": (32, "int32"),
    "F32": (32, "float32"),
    "U64": (64, "uint64"),
    "I64": (64, "int64"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
}

_NAMES = {torch_name: name for name, (_, torch_name) in DTYPES.items()}

# Deltas are taken and merged in these; every other dtype is copied from the base unchanged.
MERGEABLE = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

_LARGEST = {
    "F32": float.fromhex("0x1.fffffep127"),
    "BF16": float.fromhex("0x1.fep127"),
    "F16": 65504.0,
}

# What training flags call them; "float" is 32 bits in torch and 64 in Python, and no name here.
_ALSO = {"half": "float16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}


def itemsize(dtype: str) -> int:
    """Return the bytes of one element of a safetensors dtype that has whole bytes."""
    return DTYPES[dtype][0] // 8


def check_held(dtype: str, where: str) -> None:
    """Raise BadFile for a dtype of no whole bytes, which nothing here can take apart."""
    if DTYPES[dtype][1] is None:
        raise _not_held(dtype).at(where)


def _not_held(dtype: str) -> BadFile:
    return BadFile(
        f"torch cannot hold the dtype {dtype}",
        remedy="dequantise the checkpoint first (to bfloat16, for example)",
    )


def torch_dtype(dtype: str) -> torch.dtype:
    """Return torch's dtype for a safetensors name; one torch cannot hold is an error."""
    import torch

    name = DTYPES[dtype][1]
    found = getattr(torch, name, None) if name else None
    if found is None:
        raise _not_held(dtype)
    return found


def safetensors_dtype(dtype: torch.dtype) -> str:
    """Return the safetensors name of a torch dtype."""
    name = _NAMES.get(str(dtype).removeprefix("torch."))
    if name is None:
        raise BadFile(f"safetensors has no dtype for {dtype}")
    return name


def parse_dtype(text: str) -> str:
    """Return the safetensors name of a float dtype given as torch or as safetensors spells it.

    >>> parse_dtype("bfloat16"), parse_dtype("F32"), parse_dtype("fp16"), parse_dtype("torch.half")
    ('BF16', 'F32', 'F16', 'F16')
    """
    asked = text.strip().removeprefix("torch.").lower()
    asked = _ALSO.get(asked, asked)
    for name in MERGEABLE:
        if asked in (name.lower(), DTYPES[name][1]):
            return name
    known = sorted(str(DTYPES[name][1]) for name in MERGEABLE)
    close = nearest(asked, [*known, *_ALSO])
    raise UnknownName(
        f"unknown dtype {text[:40]!r}",
        expected=some(known, 9),
        remedy=f"did you mean {close!r}?" if close else None,
    )


def widened(dtype: str) -> str:
    """Return the dtype arithmetic is done in: F64 for float64 parameters, else F32."""
    return "F64" if dtype == "F64" else "F32"


def working_dtype(dtype: str) -> torch.dtype:
    """Return the same as torch's."""
    return torch_dtype(widened(dtype))


def largest(dtype: str) -> float:
    """Return the largest finite number of a float dtype.

    >>> largest("F16"), largest("F8_E4M3")
    (65504.0, 448.0)
    """
    if dtype in _LARGEST:  # the usual ones do without torch
        return _LARGEST[dtype]
    import torch

    return torch.finfo(torch_dtype(dtype)).max
