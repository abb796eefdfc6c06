"""Gram matrices of what each linear layer sees of a task, for regmean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltakit.errors import DeltakitError, some
from deltakit.importance import ImportanceMap
from deltakit.learn.examples import read_examples
from deltakit.learn.objective import objective
from deltakit.learn.parameters import tracked
from deltakit.tensors.checkpoint import Checkpoint


def gram(
    model: str | Path,
    data: str | Path,
    *,
    task: str,
    options: Sequence[str] | None = None,
    max_tokens: int = 256,
) -> ImportanceMap:
    """Measure X^T X / n of each linear layer's inputs over a JSONL file of labelled texts.

    >>> gram("./ft-trec", "trec.jsonl", task="trec").save("trec.gram.safetensors")
    ... # doctest: +SKIP

    X holds one row a token, of every example on its own, so that no padding counts (RegMean, Jin
    et al. 2023, arXiv:2212.09849). Nothing is kept but one matrix of inputs by inputs a layer,
    float32 (in, in) under the name of its weight. Raises what `post_hoc` does of data and model,
    and DeltakitError for a model without linear layers.
    """
    examples = read_examples(data)
    live, loss = objective(
        model, examples, source=str(data), options=options, max_tokens=max_tokens
    )
    return gram_of(
        live,
        loss,
        examples,
        task=task,
        names=Checkpoint.open(model).infos,
        provenance={
            "data": Path(data).name,
            "data_sha256": hashlib.sha256(Path(data).read_bytes()).hexdigest(),
        },
    )


def gram_of(
    live: torch.nn.Module,
    loss: Callable[[Sequence[Any]], Tensor],
    examples: Sequence[Any],
    *,
    task: str,
    names: Container[str] | None = None,
    provenance: dict[str, str] | None = None,
) -> ImportanceMap:
    """Measure the same of any live model, over whatever its loss takes, one example at a time.

    >>> model = torch.nn.Linear(2, 1)
    >>> rows = [[1.0, 0.0], [1.0, 2.0]]
    >>> gram_of(model, lambda batch: model(torch.tensor(batch)).sum(), rows, task="t")["weight"]
    tensor([[1., 1.],
            [1., 2.]])

    names: the parameters whose layers are measured, all by default. A layer that no token reaches
    has no matrix.
    """
    kept = {id(p): name for name, p in tracked(live).items() if names is None or name in names}
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    hooks = [
        module.register_forward_pre_hook(_adder(kept[id(module.weight)], sums, rows))
        for module in live.modules()
        if isinstance(module, torch.nn.Linear) and id(module.weight) in kept
    ]
    try:
        with torch.no_grad():
            for example in examples:
                loss([example])
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise DeltakitError("the model has no linear layer that the data reaches", where=task)
    bad = [name for name, total in sums.items() if not bool(total.isfinite().all())]
    if bad:
        raise DeltakitError("a layer's inputs are NaN or infinite", where=some(bad))
    return ImportanceMap(
        {name: total / rows[name] for name, total in sums.items()},
        task=task,
        units="gram",
        score="gram",
        provenance={
            "method": "mean of x x^T over tokens",
            **(provenance or {}),
            "examples": str(len(examples)),
        },
    )


def _adder(
    name: str, sums: dict[str, Tensor], rows: dict[str, int]
) -> Callable[[torch.nn.Module, tuple[Any, ...]], None]:
    def add(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().flatten(0, -2).float()  # (tokens, in)
        if not len(x):  # an expert that no token was sent to: as if it were not called
            return
        sums[name] = sums[name].addmm_(x.T, x) if name in sums else x.T @ x
        rows[name] = rows.get(name, 0) + len(x)

    return add
