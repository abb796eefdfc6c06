"""Importance of a finished model's parameters, measured on labelled data without training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltakit.errors import BadFile, BadValue, nearest, some
from deltakit.importance import ImportanceMap
from deltakit.learn import scores
from deltakit.learn.examples import Example, read_examples
from deltakit.learn.fisher import fisher
from deltakit.learn.klf_importance import KlfImportance
from deltakit.learn.objective import Loss, objective
from deltakit.learn.parameters import tracked
from deltakit.tensors.checkpoint import Checkpoint

_MEASURES = (*(f"klf-{score}" for score in scores.SCORES), "fisher")
_FINER = ("-head", "-row", "-element")
KINDS = tuple(f"{measure}{finer}" for measure in _MEASURES for finer in ("", *_FINER))


def post_hoc(
    model: str | Path,
    data: str | Path,
    *,
    task: str,
    kind: str = "klf-first",
    base: str | Path | None = None,
    options: Sequence[str] | None = None,
    batch: int = 8,
    max_tokens: int = 256,
    a1: float = scores.DECAY,
    a2: float = scores.DECAY,
    window: int | str | None = None,
) -> ImportanceMap:
    """Measure importance over a JSONL file of labelled texts at fixed weights.

    >>> post_hoc("./ft-trec", "trec.jsonl", task="trec").save("trec.importance.safetensors")
    ... # doctest: +SKIP

    `klf-first`, `klf-second`, `klf-mixed`: the recurrence of `KlfImportance`, one step per batch
    in the order of the file, as in a training run whose optimizer does nothing; a = 0.85 is a
    window of about seven batches; `window`, a number of them or "all", sets both to 1 - 1/window.
    `fisher`: the empirical Fisher diagonal, mean over examples of the squared gradient of each
    example on its own (`batch` is not used). Each is averaged over the parameter's scalars;
    `klf-first-head`, ..: over those of each attention head, of which the config tells the number;
    `klf-first-row`, ..: over those of each row; `klf-first-element`, ..: not at all, which makes a
    map of the model's size.

    Dropout is off. A batch (`fisher`: an example) with a NaN or infinite gradient is skipped
    and counted. The loss is the one of `deltakit.learn.objective`; `options` are the label texts
    for a text encoder. One float32 score a unit of each parameter that the checkpoint holds.
    Raises `BadValue` for a wrong setting, and `BadFile` for a data line that does not fit or a
    checkpoint without weights that its model uses.
    """
    if kind not in KINDS:
        close = nearest(kind, KINDS)
        raise BadValue(
            "unknown kind of importance",
            expected=", ".join(KINDS),
            got=kind,
            remedy=f'did you mean "{close}"?' if close else None,
        )
    if batch < 1:
        raise BadValue("a batch holds one example or more", got=f"batch={batch}")
    if kind.startswith("fisher") and window is not None:
        raise BadValue("fisher is a mean over all examples and has no window", got=f"{window}")
    examples = read_examples(data)
    live, loss = objective(
        model, examples, source=str(data), options=options, max_tokens=max_tokens
    )
    names = _held(live, loss, examples[0], model)
    provenance = {
        "method": f"post hoc {kind}",
        "data": Path(data).name,
        "data_sha256": hashlib.sha256(Path(data).read_bytes()).hexdigest(),
        "examples": str(len(examples)),
    }
    finer = next((ending for ending in _FINER if kind.endswith(ending)), "")
    measure, units = kind.removesuffix(finer), finer.removeprefix("-") or "tensor"
    if measure == "fisher":
        return fisher(
            live,
            loss,
            examples,
            names=names,
            task=task,
            units=units,
            base=base,
            provenance=provenance,
        )
    capture = KlfImportance.attach(
        live,
        score=measure.removeprefix("klf-"),
        units=units,
        a1=a1,
        a2=a2,
        window=scores.window_of(window, len(examples), batch),
        base=base,
        names=names,
    )
    for start in range(0, len(examples), batch):
        loss(examples[start : start + batch]).backward()
        capture.step()
        live.zero_grad()
    return capture.map(task, {**provenance, "batch": str(batch)})


def _held(live: Any, loss: Loss, example: Example, path: str | Path) -> list[str]:
    """Return the parameters that the checkpoint holds; one it lacks was made up on reading it."""
    held = Checkpoint.open(path).infos
    parameters = tracked(live)
    lacking = [name for name in parameters if name not in held]
    if lacking:
        loss([example]).backward()
        used = [name for name in lacking if parameters[name].grad is not None]
        live.zero_grad()
        if used:
            raise BadFile(
                "the checkpoint lacks weights that its model uses",
                where=str(path),
                got=some(used),
                remedy="save the whole model with save_pretrained",
            )
    return [name for name in parameters if name in held]
