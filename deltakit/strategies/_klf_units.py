"""The skill units of importance maps, as KlF compares them: all of the model's at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from deltakit.errors import BadValue, NamesDiffer, some
from deltakit.importance import ImportanceMap
from deltakit.strategies._depth import without_layer
from deltakit.strategies._heads import attention_blocks
from deltakit.strategies._klf_levels import Units
from deltakit.strategies._strategy import Scores

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_BLOCK = 1 << 20  # units that are compared at once


def common_units(scores: Sequence[Scores], names: Sequence[str]) -> list[str]:
    """Return the parameters that every map scores; one that only some score is an error.

    Parameters in no map (buffers, which training has no gradient for) are averaged.
    """
    units = [name for name in names if any(name in task for task in scores)]
    for number, task in enumerate(scores):
        missing = [name for name in units if name not in task]
        if missing:
            raise NamesDiffer(
                f"the importance map of task {number + 1} lacks parameters that another map has",
                where=some(missing),
                remedy="capture all maps over the same parameters",
            )
    if not units:
        raise NamesDiffer(
            "the importance maps name none of the model's parameters",
            expected=some(list(names)),
            got=some([name for task in scores for name in task]) or "no names",
        )
    return units


def shared_units(scores: Sequence[Scores], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the parameters by the first of those that have the same units.

    A head is one unit of several parameters, and each bears its score; all others have units of
    their own.
    """
    each = {name: [name] for name in names}
    if all(isinstance(task, ImportanceMap) and task.units == "head" for task in scores):
        for members in attention_blocks(n for n in names if scores[0][n].dim()).values():
            each[members[0]] = members
            for name in members[1:]:
                del each[name]
    return each


def check_alike(scores: Sequence[Scores], units: Sequence[str]) -> None:
    """Raise BadValue for maps whose units differ."""
    for number, task in enumerate(scores, start=1):
        for name in units:
            if task[name].shape != scores[0][name].shape:
                raise BadValue(
                    "klf compares the same units of every task",
                    where=name,
                    expected=f"scores of shape {list(scores[0][name].shape)}, as task 1 has",
                    got=f"{list(task[name].shape)} of task {number}",
                    remedy="capture all maps in the same units, or take each parameter's mean:"
                    " --set units=tensor",
                )


def means(scores: Sequence[Scores], units: Sequence[str]) -> np.ndarray:
    """Return one score a parameter, the mean over its finer units: (tasks, parameters) float64.

    A parameter of no entries scores 0.
    """
    import numpy as np

    def mean(found: Tensor) -> float:
        # numpy adds in a fixed order; torch's depends on the number of threads.
        total = np.add.reduce(found.double().numpy().reshape(-1))
        return float(total) / max(1, found.numel())

    return np.array([[mean(task[name]) for name in units] for task in scores], dtype=np.float64)


def kinds(names: Iterable[str]) -> list[list[str]]:
    """Return names by the kind of module: those that differ in the number of their layer alone.

    >>> kinds(["layers.0.q.weight", "layers.0.q.bias", "layers.1.q.weight", "norm.weight"])
    [['layers.0.q.weight', 'layers.1.q.weight'], ['layers.0.q.bias'], ['norm.weight']]
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(without_layer(name), []).append(name)
    return list(found.values())


def unit_blocks(
    scores: Sequence[Scores], units: Sequence[str], entries: Mapping[str, int] | None
) -> Iterator[Units]:
    """Yield the scores of all units, parameter by parameter: (tasks, units) float64.

    With `entries` each unit comes with its size: those of its name, shared out evenly.
    """
    import numpy as np
    import torch

    for name in units:
        each = [task[name].reshape(-1) for task in scores]
        for start in range(0, len(each[0]), _BLOCK):
            rows = [row[start : start + _BLOCK].double() for row in each]
            sizes = None
            if entries is not None:
                sizes = np.full(len(rows[0]), entries[name] // len(each[0]))
            yield Units(torch.stack(rows).numpy(), sizes)
