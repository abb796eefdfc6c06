"""The figures by their definitions: whole tensors, float64, no sums shared with the code."""

from __future__ import annotations

from typing import Any

import numpy as np


def figures(deltas: list[np.ndarray], base: np.ndarray) -> dict[str, Any]:
    """Return what a group's figures must be, from flat deltas of all its parameters."""
    stack = np.stack(deltas).astype(np.float64)
    owned = (stack != 0).sum(0)
    shared = owned >= 2
    opposite = (stack.max(0) > 0) & (stack.min(0) < 0)
    norms = np.sqrt((stack**2).sum(1))
    return {
        "density": [(d != 0).mean() for d in stack],
        "norm": list(norms),
        "relative": [n / np.linalg.norm(base.astype(np.float64)) for n in norms],
        "rms": [np.sqrt((d**2).mean()) for d in stack],
        "mean": [d.mean() for d in stack],
        "max": [np.abs(d).max() for d in stack],
        "owned": [(owned == n).mean() for n in range(len(stack) + 1)],
        "sign_conflict": (opposite & shared).sum() / shared.sum(),
        "weighted_conflict": 1 - np.abs(stack.sum(0)).sum() / np.abs(stack).sum(),
        "interference": (stack.sum(0) ** 2).sum() / (stack**2).sum() - 1,
    }


def pair(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return what the figures of two flat deltas must be."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    both, either = (a != 0) & (b != 0), (a != 0) | (b != 0)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return {
        "cosine": a @ b / norms,
        "null_band": 2 / np.sqrt(norms**2 / (a**2 @ b**2)),
        "jaccard": both.sum() / either.sum(),
        "overlap": both.sum() / min((a != 0).sum(), (b != 0).sum()),
        "sign_conflict": (np.sign(a) * np.sign(b) < 0).sum() / both.sum(),
        "weighted_conflict": 1 - np.abs(a + b).sum() / (np.abs(a).sum() + np.abs(b).sum()),
        "interference": ((a + b) ** 2).sum() / ((a**2).sum() + (b**2).sum()) - 1,
    }
