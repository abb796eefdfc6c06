"""How an adapter was made: written beside it and into it, and told when it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from deltakit.lora.checks import ModuleCheck, Summary, summarise
from deltakit.lora.cut import Size
from deltakit.lora.modes import Mode
from deltakit.lora.union import Member
from deltakit.lora.write import RECORD_NAME, Contents, check_target
from deltakit.recipe import Piece
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.new_file import write_whole
from deltakit.tensors.new_folder import new_folder

FORMAT = 1


class Lineage(msgspec.Struct, frozen=True):
    """One adapter that went in: its name, where it lay, what its tensors were, its weight."""

    name: str
    path: str
    fingerprint: str
    weight: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an adapter made here depends on."""

    format: int = FORMAT
    mode: str
    adapters: list[Lineage]
    settings: dict[str, Any] = {}
    mask: Piece | None = None
    weighting: Piece | None = None
    lines: tuple[float, float] | None = None
    strategy_digest: str | None = None
    rank: int | None = None
    energy: float | None = None
    uniform: bool = False
    scale: float = 1.0
    seed: int = 0

    @classmethod
    def of(
        cls,
        members: Sequence[Member],
        mode: str,
        chosen: Mode,
        size: Size,
        scale: float = 1.0,
        seed: int = 0,
    ) -> Record:
        rule = chosen.rule
        adapters = [
            Lineage(m.name, str(m.adapter.path), m.adapter.fingerprint, m.weight) for m in members
        ]
        return cls(
            mode=mode,
            adapters=adapters,
            settings=dict(chosen.settings),
            mask=(rule.mask or None) if rule else None,
            weighting=(rule.weighting or None) if rule else None,
            lines=(rule.lines or None) if rule else None,
            strategy_digest=rule.strategy_digest if rule else None,
            rank=size.rank,
            energy=size.energy,
            uniform=size.uniform,
            scale=scale,
            seed=seed,
        )

    @property
    def size(self) -> Size:
        return Size(self.rank, self.energy, self.uniform)


@dataclass
class Report:
    """What was written, and how exact it is; see ModuleCheck for the figures."""

    out: str
    mode: str
    ranks: list[int]  # different ones, sorted
    dtype: str
    nbytes: int
    summary: Summary
    modules: list[ModuleCheck]
    kept: list[str]  # parameters kept whole, or rows of them
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        out: str | Path,
        record: Record,
        checks: Sequence[ModuleCheck],
        contents: Contents,
        notes: Sequence[str] = (),
    ) -> Report:
        return cls(
            str(out),
            record.mode,
            sorted({part.rank for part in contents.parts}),
            contents.dtype,
            sum(info.nbytes for info in contents.infos().values()),
            summarise(checks),
            list(checks),
            [*contents.whole, *contents.rows],
            list(notes),
        )


@dataclass(frozen=True)
class NewFolder:
    """The folder of an adapter while it is written."""

    path: Path
    files: Files

    def told(self, record: Record) -> dict[str, str]:
        """Return what the tensors' file says in its metadata of how it was made."""
        return {"deltakit_lora": msgspec.json.encode(record, order="sorted").decode()}

    def finish(self, record: Record, report: Report) -> None:
        """Write the record with its self-check, and the model card."""
        table = {"record": record, "check": report.summary}
        raw = msgspec.json.format(msgspec.json.encode(table, order="sorted"), indent=2) + b"\n"
        write_whole(self.path / RECORD_NAME, raw, files=self.files)
        write_whole(self.path / "README.md", _card(record, report).encode(), files=self.files)


@contextlib.contextmanager
def new_adapter(
    out: Path, inputs: Sequence[Path], overwrite: bool, files: Files = LOCAL
) -> Iterator[NewFolder]:
    """Give a folder to fill, which appears as `out` when the block ends well."""
    check_target(out, inputs, overwrite, files)
    with new_folder(out, replace=overwrite, files=files) as folder:
        yield NewFolder(folder, files)


def _card(record: Record, report: Report) -> str:
    rows = "\n".join(f"| {a.name} | {a.weight:g} |" for a in record.adapters)
    ranks = ", ".join(map(str, report.ranks))
    return f"""---
library_name: peft
tags:
- lora
- merge
- deltakit
---
# A LoRA made of {len(record.adapters)} adapters

Made by deltakit (the package deltakit-merge) with the mode `{record.mode}`, rank {ranks}.
Its rank keeps {report.summary.kept:.1%} of the energy; relative error against the exact
weighted sum: {report.summary.error:.2e}.

| adapter | weight |
|---|---|
{rows}

`{RECORD_NAME}` beside this file holds everything it depends on.
"""
