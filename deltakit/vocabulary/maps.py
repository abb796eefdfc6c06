"""Importance maps in the output's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deltakit.importance import ImportanceMap
from deltakit.vocabulary.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor


def matched_map(found: ImportanceMap, expert: int, tensors: Mapping[str, Rows]) -> ImportanceMap:
    """Return an expert's map with its scores of rows and entries where their tokens are.

    A token that the expert lacks scores 0, as its delta is 0. Scores of whole tensors and Gram
    matrices know no rows and stay.
    """
    if found.units not in ("row", "element"):
        return found
    scores: dict[str, Tensor] = {
        name: _gathered(values, tensors[name], expert) if name in tensors else values
        for name, values in found.items()
    }
    return ImportanceMap(
        scores,
        task=found.task,
        units=found.units,
        score=found.score,
        base=found.base,
        provenance=found.provenance,
    )


def _gathered(values: Tensor, rows: Rows, expert: int) -> Tensor:
    import torch

    theirs = torch.from_numpy(rows.experts[expert])
    if values.dim() == 0 or int(theirs.max()) >= len(values):
        return values  # scores of another tensor: the plan refuses its shape
    out = values.new_zeros((len(theirs), *values.shape[1:]))
    out[theirs >= 0] = values[theirs[theirs >= 0]]
    return out
