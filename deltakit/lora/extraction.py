"""The plan of an extraction: what a fine-tune changed, and how much of it which ranks keep."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from deltakit.dtypes import DTYPES
from deltakit.errors import BadValue, some
from deltakit.lora.changed import Changed
from deltakit.lora.cut import Size
from deltakit.lora.survey import DEFAULT_RANK, SHOWN, Progress, choose_ranks, survey
from deltakit.lora.write import adapter_dtype, check_target
from deltakit.tensors.checkpoint import Checkpoint

MOST_HELD = 256_000_000  # bytes of factors kept between the look and the writing

Rest = Literal["save", "drop", "refuse"]


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
    seconds: float  # that the look took

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
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Look at a fine-tune and return what would be written; writes nothing.

    size: a rank or an energy, rank 16 by default; or `nbytes`, the size of all factors. rest:
    what becomes of changed parameters that no factors hold (embeddings, norms, biases): kept
    whole, dropped (told in the notes), or a reason to refuse. look: find singular values even
    where the choice does not need them, for `table`.
    """
    import torch  # noqa: F401  as in merge_adapters

    began = time.perf_counter()
    size = size or Size()
    size.check()
    if nbytes is not None and size != Size():
        raise BadValue("a size and a rank or an energy are asked for", remedy="give one of them")
    many = size.energy is None and (look or nbytes is not None)
    wanted = Size(SHOWN[-1] if many else size.rank or DEFAULT_RANK)
    opened, tuned = Checkpoint.open(base), Checkpoint.open(model)
    if out is not None:
        check_target(Path(out), [opened.path, tuned.path], overwrite)
    changed, notes = survey(
        opened,
        tuned,
        size if size.energy else wanted,
        hold=0 if look else MOST_HELD,
        progress=progress,
    )
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
    notes += [
        f"{name} is kept whole, but PEFT does not pass it on to the encoder, decoder or head that"
        " share it: deltakit merge does, and --rest drop leaves it out"
        for name in others
        if name.removesuffix(".weight").rpartition(".")[2] == "shared"
    ]
    given = {name: rank for name, rank in ranks.items() if rank}
    seconds = time.perf_counter() - began
    return Extraction(opened, tuned, changed, given, others, out, size, notes, seconds)
