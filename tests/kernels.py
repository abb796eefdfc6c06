"""Turning the compiled kernels off for a while, or the parts for some processors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from deltakit import kernels
from deltakit.dtypes import safetensors_dtype
from deltakit.stored import Filled


def room_for(count: int, dtype: torch.dtype) -> Filled:
    """Return memory for entries, as the engine hands it to what adds and rounds."""
    return Filled(safetensors_dtype(dtype), np.empty(count * dtype.itemsize, dtype=np.uint8))


@contextmanager
def without_kernels() -> Iterator[None]:
    """Let torch compute what the kernels would."""
    compiled, kernels.compiled = kernels.compiled, None
    try:
        yield
    finally:
        kernels.compiled = compiled


@contextmanager
def without_loops_by_hand() -> Iterator[None]:
    """Let the kernels run, on any processor, what they run on one without AVX-512."""
    was = kernels.compiled.by_hand(False)
    try:
        yield
    finally:
        kernels.compiled.by_hand(was)
