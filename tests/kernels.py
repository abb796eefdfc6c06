"""Turning the compiled kernels off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deltakit import kernels


@contextmanager
def without_kernels() -> Iterator[None]:
    """Let torch compute what the kernels would."""
    compiled, kernels.compiled = kernels.compiled, None
    try:
        yield
    finally:
        kernels.compiled = compiled
