"""Rank units: one skill unit is row i of a LoRA's A with column i of its B (arXiv:2408.05200)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from deltakit.errors import BadValue

A, B = ".lora_A.weight", ".lora_B.weight"


def adapted_modules(names: Iterable[str]) -> list[str]:
    """Return the modules whose A and B are among the parameters, sorted.

    >>> adapted_modules(["q.lora_A.weight", "q.lora_B.weight"])
    ['q']

    Raises BadValue for a parameter that is no half of such a pair: it has no rank units.
    """
    found = set(names)
    modules = sorted(name.removesuffix(A) for name in found if name.endswith(A))
    strange = found - {module + half for module in modules for half in (A, B)}
    lonely = [module for module in modules if module + B not in found]
    if strange or lonely or not modules:
        raise BadValue(
            "rank units need pairs of lora_A and lora_B, and nothing else",
            got=min(strange, default=lonely[0] + A if lonely else "no adapter at all"),
            remedy="track only the adapter with names=, or use tensor units",
        )
    return modules


def rank_scores(score_a: Tensor, score_b: Tensor) -> Tensor:
    """Return one score a rank: mean(score_B[:, i]) * mean(score_A[i, :]).

    >>> import torch
    >>> rank_scores(torch.tensor([[1.0, 3], [2, 4]]), torch.tensor([[2.0, 0], [4, 2]]))
    tensor([6., 3.], dtype=torch.float64)

    score_a (r, d_in) and score_b (d_out, r) hold a score for each scalar -> (r,) float64. It
    equals the mean over the outer product of the two, which is never formed.
    """
    return score_b.double().mean(dim=0) * score_a.double().mean(dim=1)
