"""The Fisher diagonal of any live model, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltakit.errors import DeltakitError
from deltakit.importance import ImportanceMap
from deltakit.learn import scores
from deltakit.learn.head_units import Heads
from deltakit.learn.parameters import tracked
from deltakit.tensors.checkpoint import Checkpoint


def fisher(
    live: torch.nn.Module,
    loss: Callable[[Sequence[Any]], Tensor],
    examples: Sequence[Any],
    *,
    task: str,
    units: str = "tensor",
    names: Iterable[str] | None = None,
    base: str | Path | None = None,
    provenance: dict[str, str] | None = None,
) -> ImportanceMap:
    """Measure the empirical Fisher diagonal: the mean square of each example's own gradient.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> rows = [[1.0], [3.0]]
    >>> fisher(model, lambda batch: model(torch.tensor(batch)).sum(), rows, task="t")["weight"]
    tensor(5.)

    loss: of a batch of examples, shape (); it is given one at a time. units: "tensor", "head",
    "row" or "element", over which the mean is taken. names: the parameters to measure, all by
    default. An example with a NaN or infinite gradient is skipped and counted; DeltakitError when
    all are.
    """
    parameters = tracked(live, names)
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    heads = Heads.of(live, shapes, None) if units == "head" else None

    def squares_of(name: str, gradient: Tensor) -> Tensor:
        if heads is not None:
            return heads.sums(name, _dense(gradient).float().square())
        return _squares(gradient, units)

    # Mean over a unit's scalars of a mean over examples: one float64 sum a unit.
    totals: dict[str, Tensor] = {}
    skipped = 0
    live.zero_grad()  # what an earlier backward() left is no example's own
    for example in examples:
        loss([example]).backward()
        squares = {
            name: squares_of(name, p.grad) for name, p in parameters.items() if p.grad is not None
        }
        live.zero_grad()
        if not all(bool(square.isfinite().all()) for square in squares.values()):
            skipped += 1
            continue
        for name, square in squares.items():
            totals[name] = totals[name].add_(square) if name in totals else square
    counted = len(examples) - skipped
    if not counted:
        raise DeltakitError(
            "every example has a NaN or infinite gradient",
            where=f'importance of task "{task}"',
            got=f"{skipped} examples",
            remedy="check that the model's weights are finite",
        )
    for name, p in parameters.items():
        total = totals.get(name)
        totals[name] = squares_of(name, torch.zeros_like(p)) if total is None else total / counted
    return ImportanceMap(
        heads.means(totals) if heads is not None else _means(totals, parameters),
        task=task,
        units=units,
        score="fisher",
        base=None if base is None else Checkpoint.open(base).fingerprint(),
        provenance={**(provenance or {}), "examples_skipped_nonfinite": str(skipped)},
    )


def _means(
    totals: dict[str, Tensor], parameters: dict[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    return {
        name: (totals[name] / (p.numel() / max(1, totals[name].numel()))).float()
        for name, p in parameters.items()
    }


def _dense(gradient: Tensor) -> Tensor:
    return gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()


def _squares(gradient: Tensor, units: str) -> Tensor:
    """Return each unit's sum of squares: () or (rows,) float64, or float32 of the own shape."""
    if units == "tensor":
        return torch.tensor(scores.sum_of_squares(_dense(gradient)), dtype=torch.float64)
    squared = _dense(gradient).float().square()
    if units == "element" or not squared.dim():
        return squared
    return squared.reshape(len(squared), -1).sum(dim=1, dtype=torch.float64)
