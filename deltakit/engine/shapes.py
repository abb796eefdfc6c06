"""What a tensor is in the output, and how long its rows are."""

from __future__ import annotations

import math

from deltakit.delta_source import is_merged
from deltakit.tensors.header import TensorInfo


def output_info(info: TensorInfo, dtype: str | None) -> TensorInfo:
    """Return a tensor's dtype and shape in the output: integers keep theirs.

    >>> [output_info(TensorInfo(dtype, (2,)), "BF16").dtype for dtype in ("F32", "I8")]
    ['BF16', 'I8']
    """
    return TensorInfo(dtype, info.shape) if dtype and is_merged(info) else info


def row_length(info: TensorInfo) -> int:
    """Return the entries that share the first index of a tensor; a vector is one row.

    >>> row_length(TensorInfo("F32", (2, 3, 4))), row_length(TensorInfo("F32", (5,)))
    (12, 5)
    """
    return math.prod(info.shape[1:] if len(info.shape) > 1 else info.shape)
