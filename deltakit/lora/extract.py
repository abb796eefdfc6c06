"""A LoRA out of a full fine-tune: the nearest low-rank delta, and the rest kept whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from deltakit.lora.changed import Changed
from deltakit.lora.checks import ModuleCheck
from deltakit.lora.extraction import Extraction
from deltakit.lora.factors import Factors, squared_norms
from deltakit.lora.flat import flat_blocks
from deltakit.lora.record import Lineage, Record, Report, new_adapter
from deltakit.lora.survey import THREADS, Progress
from deltakit.lora.write import AdapterWriter, Contents, NewPart
from deltakit.tensors.files import LOCAL, Files
from deltakit.threads import one_torch_thread, run_all

_TASKS = {"ForCausalLM": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS"}


def extract(
    plan: Extraction,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    files: Files = LOCAL,
) -> Report:
    """Write the adapter of an extraction, and return how much of the delta it holds.

    >>> from deltakit.lora.extraction import plan_extract
    >>> extract(plan_extract("./base", "./tuned", size=Size(energy=0.9)), "./lora")
    ...                                                                   # doctest: +SKIP
    """
    import torch  # noqa: F401  as in merge_adapters

    began = time.perf_counter()
    base, tuned = plan.base, plan.tuned
    lineage = Lineage("model", str(tuned.path), tuned.fingerprint(), 1.0)
    record = Record(
        mode="extract", adapters=[lineage], rank=plan.size.rank, energy=plan.size.energy
    )
    contents = _contents(plan)
    checks: dict[str, ModuleCheck] = {}
    lock = threading.Lock()
    by_module = {found.module: found for found in plan.changed if found.name in plan.ranks}
    inputs = [base.path, tuned.path]
    with new_adapter(Path(out), inputs, overwrite, files) as folder, one_torch_thread():
        with AdapterWriter(folder.path, contents, folder.told(record), files) as writer:

            def do(part: NewPart) -> None:
                found = by_module[part.module]
                factors = found.factors(part.rank, base, tuned)
                done = _check(part, found, factors, writer.write_part(part, factors))
                with lock:
                    checks[part.module] = done
                if progress:
                    progress(found.name, 2 * base.infos[found.name].nbytes)

            run_all(do, iter(contents.parts), THREADS)
            for name in contents.whole:
                own = name if name in tuned.infos else _embedding(plan.whole)
                writer.write_whole(name, flat_blocks(tuned, own or name))
        base.check_unchanged()
        tuned.check_unchanged()
        ordered = [checks[part.module] for part in contents.parts]
        report = Report.of(out, record, ordered, contents, plan.notes)
        folder.finish(record, report)
    report.seconds = plan.seconds + time.perf_counter() - began
    return report


def _check(part: NewPart, found: Changed, factors: Factors, written: Factors) -> ModuleCheck:
    """Return the check of one module: what the rank leaves out, and what rounding changed.

    The two are orthogonal, as what is left out has no part in the factors' spaces.
    """
    rounded = squared_norms([factors, written], [1.0, -1.0])[-1]
    share = (found.lost(part.rank) + rounded) / found.energy
    return ModuleCheck(
        part.module, part.rank, sqrt(found.energy), sqrt(share), max(0.0, 1.0 - share)
    )


def _contents(plan: Extraction) -> Contents:
    parts = [
        NewPart(found.module, found.kind, plan.ranks[found.name], found.outputs, found.inputs)
        for found in plan.changed
        if found.kind is not None and found.name in plan.ranks
    ]
    config = plan.base.config()
    adapted = {part.module for part in parts}
    biases = any(
        name.endswith(".bias") and name.rpartition(".")[0] in adapted for name in plan.whole
    )
    names = [str(name) for name in config.get("architectures") or []]
    task = next((t for end, t in _TASKS.items() for name in names if name.endswith(end)), None)
    whole = {name: plan.tuned.infos[name].shape for name in plan.whole}
    tied = config.get("tie_word_embeddings") is True and task == "CAUSAL_LM"
    embedding = _embedding(plan.whole) if tied else None
    if embedding is not None:  # PEFT unties what it keeps whole, unless it has both ends
        whole["lm_head.weight"] = whole[embedding]
    fields: dict[str, Any] = {
        "base_model_name_or_path": str(plan.base.path),
        "task_type": task,
        "fan_in_fan_out": any(found.turned for found in plan.changed),
        "bias": "all" if biases else "none",
        "modules_to_save": sorted({n.rpartition(".")[0] for n in whole} - adapted) or None,
        "ensure_weight_tying": embedding is not None,
    }
    return Contents(parts, plan.dtype, fields, whole)


def _embedding(names: Sequence[str]) -> str | None:
    """Return the one of these names that is a model's input embedding."""
    ends = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
    return next((name for name in names if name.endswith(ends)), None)
