"""A LoRA out of a full fine-tune: the nearest low-rank delta, and the rest kept whole."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deltakit.engine.threads import one_torch_thread, run_all
from deltakit.errors import BadValue, some
from deltakit.lora.checks import ModuleCheck
from deltakit.lora.cut import Size, cut
from deltakit.lora.factors import Factors
from deltakit.lora.record import Lineage, Record, Report, new_adapter
from deltakit.lora.survey import SHOWN, THREADS, Changed, Progress, choose_ranks, survey
from deltakit.lora.write import AdapterWriter, Contents, NewPart, adapter_dtype
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.dtypes import DTYPES
from deltakit.tensors.files import LOCAL, Files

if TYPE_CHECKING:
    from torch import Tensor

Rest = Literal["save", "drop", "refuse"]
_TASKS = {"ForCausalLM": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS"}


@dataclass(frozen=True)
class Extraction:
    """What an extraction will write, and what it keeps of the delta's energy."""

    base: Checkpoint
    tuned: Checkpoint
    changed: Sequence[Changed]
    ranks: Mapping[str, int]  # of the weights that get factors, by name
    whole: Sequence[str]
    dtype: str
    size: Size
    notes: Sequence[str]

    def table(self) -> list[tuple[str, int, float | None]]:
        """Return (what, bytes, share of the energy kept) for some ranks, and for the choice made.

        The share is None where the survey did not look at as many singular values.
        """
        itemsize = DTYPES[self.dtype][0] // 8
        matrices = [found for found in self.changed if found.kind is not None]
        rest = sum(prod(self.base.infos[name].shape) for name in self.whole) * itemsize
        saved = sum(found.energy for found in self.changed if found.name in self.whole)
        total = sum(found.energy for found in self.changed)
        rows: list[tuple[str, int, float | None]] = []
        wishes = [(f"rank {rank}", dict.fromkeys(self.ranks, rank)) for rank in SHOWN]
        for label, ranks in [*wishes, ("chosen", dict(self.ranks))]:
            given = {f.name: min(ranks.get(f.name, 0), f.most) for f in matrices}
            nbytes = rest + itemsize * sum(f.unit * given[f.name] for f in matrices)
            known = all(given[f.name] <= len(f.squares) for f in matrices)
            kept = (saved + sum(f.kept(given[f.name]) for f in matrices)) / total
            rows.append((label, nbytes, min(1.0, kept) if known else None))
        return rows


def plan_extract(
    base: str | Path,
    model: str | Path,
    *,
    size: Size | None = None,
    nbytes: int | None = None,
    rest: Rest = "save",
    dtype: str | None = None,
    look: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Look at a fine-tune and return what would be written; writes nothing.

    size: a rank or an energy, rank 16 by default; or `nbytes`, the size of all factors. rest:
    what becomes of changed parameters that no factors hold (embeddings, norms, biases): kept
    whole, dropped (told in the notes), or a reason to refuse. look: find singular values even
    where the choice does not need them, for `table`.
    """
    size = size or Size()
    size.check()
    if nbytes is not None and size != Size():
        raise BadValue("a size and a rank or an energy are asked for", remedy="give one of them")
    values = SHOWN[-1] if look or nbytes is not None else 0
    opened, tuned = Checkpoint.open(base), Checkpoint.open(model)
    changed, notes = survey(opened, tuned, values=values, energy=size.energy, progress=progress)
    kinds = Counter(opened.infos[found.name].dtype for found in changed)
    out = adapter_dtype(dtype or kinds.most_common(1)[0][0])
    ranks = choose_ranks(changed, size, nbytes, DTYPES[out][0] // 8)
    others = [found.name for found in changed if found.kind is None]
    if others and rest == "refuse":
        raise BadValue(
            "the fine-tune changed parameters that no LoRA holds",
            where=tuned.label,
            got=some(others),
            remedy="keep them whole (--rest save), or leave them out (--rest drop)",
        )
    empty = sorted(name for name, rank in ranks.items() if rank == 0)
    if empty:
        notes = [*notes, f"no rank was left for {some(empty)}"]
    if others and rest == "drop":
        notes = [*notes, f"left as in the base, though the fine-tune changed them: {some(others)}"]
        others = []
    given = {name: rank for name, rank in ranks.items() if rank}
    return Extraction(opened, tuned, changed, given, others, out, size, notes)


def extract(
    plan: Extraction,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    files: Files = LOCAL,
) -> Report:
    """Write the adapter of an extraction, and return how much of the delta it holds.

    >>> extract(plan_extract("./base", "./tuned", size=Size(energy=0.9)), "./lora")
    ...                                                                   # doctest: +SKIP
    """
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
                delta = found.dense(base, tuned)
                written = writer.write_part(part, cut(delta, part.rank).factors)
                done = _check(part, delta, written, found.energy)
                with lock:
                    checks[part.module] = done
                if progress:
                    progress(found.name, 2 * base.infos[found.name].nbytes)

            run_all(do, iter(contents.parts), THREADS)
            for name in contents.whole:
                own = name if name in tuned.infos else _embedding(plan.whole)
                writer.write_whole(name, tuned[own or name])
        base.check_unchanged()
        tuned.check_unchanged()
        ordered = [checks[part.module] for part in contents.parts]
        report = Report.of(out, record, ordered, contents, plan.notes)
        folder.finish(record, report)
    report.seconds = time.perf_counter() - began
    return report


def _check(part: NewPart, delta: Tensor, written: Factors, energy: float) -> ModuleCheck:
    """Return the check of one module; uses `delta` up."""
    lost = 0.0
    for rows, b in zip(delta.split(256), written.b.split(256), strict=True):
        lost += float(rows.sub_(b @ written.a).double().square().sum())
    return ModuleCheck(
        part.module, part.rank, sqrt(energy), sqrt(lost / energy), max(0.0, 1.0 - lost / energy)
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
