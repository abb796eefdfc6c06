"""ImportanceMap: how much each skill unit of a model matters to one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deltakit.delta_source import DeltaSource, merged_names
from deltakit.dtypes import torch_dtype, working_dtype
from deltakit.errors import BadValue, DeltakitError, NonFinite
from deltakit.provenance import FORMAT, check_kind, parse, render
from deltakit.tensors.files import LOCAL, Files
from deltakit.tensors.reader import SafetensorsFile
from deltakit.tensors.source import MemoryTensors, TensorSource
from deltakit.tensors.writer import SafetensorsWriter

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1 << 20

UNITS = ("tensor", "rank", "head", "row", "element", "gram")


class ImportanceMap(Mapping[str, "Tensor"]):
    """Scores of skill units by parameter name, as a safetensors file anyone can read.

    >>> import torch
    >>> scores = ImportanceMap({"w": torch.tensor(0.5)}, task="trec")
    >>> scores["w"], scores.units
    (tensor(0.5000), 'tensor')

    Scores are float32 (or float64), of shape () for tensor units, (rows,) for row units, the
    parameter's own for element units, (columns, columns) for the Gram matrices of regmean. Head
    units: (heads, 1) for the weights of q, k and v, (heads,) for their biases, (1, heads) for that
    of o, the same score with each, and () for all other parameters. `score`
    says what was measured: "first", "second" or "mixed" (KlF, arXiv:2408.05200), "fisher" (mean
    squared gradient), "delta" (mean |delta|) or "gram". Raises NonFinite for a NaN or infinite
    score and BadValue for a negative one.
    """

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        *,
        task: str,
        units: str = "tensor",
        score: str = "first",
        base: str | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        if units not in UNITS:
            raise BadValue(f"unknown skill units {units!r}", expected=", ".join(UNITS))
        self._scores = {name: scores[name].detach() for name in sorted(scores)}
        self.task = task
        self.units = units
        self.score = score
        self.base = base
        self.provenance = dict(provenance or {})
        for name, values in self._scores.items():
            if str(values.dtype) not in ("torch.float32", "torch.float64"):
                raise BadValue(
                    "scores are not float32 or float64", where=name, got=f"{values.dtype}"
                )
            if not bool(values.isfinite().all()):
                raise NonFinite("an importance score is NaN or infinite", where=name)
            if units != "gram" and bool((values < 0).any()):
                raise BadValue("an importance score is negative", where=name)
            if units == "tensor" and values.numel() != 1:
                raise BadValue("tensor units have one score a parameter", where=name)

    def __getitem__(self, name: str) -> Tensor:
        return self._scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)

    def save(self, path: str | Path, *, replace: bool = False, files: Files = LOCAL) -> None:
        """Write the map; an existing file is refused unless `replace`."""
        source = MemoryTensors(self._scores)
        metadata = {
            "deltakit": str(FORMAT),
            "kind": "importance",
            "task": self.task,
            "units": self.units,
            "score": self.score,
            "recipe": render(self.provenance),
        }
        if self.base is not None:
            metadata["base"] = self.base
        writer = SafetensorsWriter(Path(path), source.infos, metadata, replace=replace, files=files)
        with writer:
            for name, info in source.infos.items():
                data = memoryview(bytearray(info.nbytes))
                source.read(name, 0, data)
                writer.write(name, 0, data)

    @classmethod
    def open(cls, path: str | Path, files: Files = LOCAL) -> ImportanceMap:
        """Read a map; raises BadFile for a file that is not one, NotFound for a missing one."""
        import torch

        file = SafetensorsFile(Path(path), files)
        try:
            metadata = file.header.metadata
            check_kind(metadata, "importance")
            scores: dict[str, Tensor] = {}
            for name, info in file.header.infos.items():
                raw = torch.empty(info.nbytes, dtype=torch.uint8)
                file.read(name, 0, memoryview(raw.numpy()))
                scores[name] = raw.view(torch_dtype(info.dtype)).reshape(info.shape)
            return cls(
                scores,
                task=metadata.get("task", ""),
                units=metadata.get("units", ""),
                score=metadata.get("score", ""),
                base=metadata.get("base"),
                provenance=parse(metadata, "recipe", dict[str, str]),
            )
        except DeltakitError as error:
            raise error.at(str(path)) from None
        finally:
            file.close()

    def constant(self) -> ImportanceMap:
        """Return the map with every unit equally important: KlF's half/half control."""
        import torch

        return self._with({n: torch.ones_like(s) for n, s in self.items()}, "constant")

    def shuffled(self, seed: int) -> ImportanceMap:
        """Return the map with its scores dealt to other units at random: KlF's control.

        Only for tensor units, whose scores can change places between parameters.
        """
        import random

        if self.units != "tensor":
            raise BadValue("only maps of tensor units are shuffled", got=self.units)
        names = list(self)
        dealt = random.Random(f"deltakit shuffle {seed} {self.task}").sample(names, len(names))
        return self._with(
            {
                name: self[other].reshape(self[name].shape)
                for name, other in zip(names, dealt, strict=True)
            },
            f"shuffled, seed {seed}",
        )

    def _with(self, scores: Mapping[str, Tensor], control: str) -> ImportanceMap:
        return ImportanceMap(
            scores,
            task=self.task,
            units=self.units,
            score=self.score,
            base=self.base,
            provenance={**self.provenance, "control": control},
        )


def importance_of_delta(delta: DeltaSource, base: TensorSource, *, task: str) -> ImportanceMap:
    """Return the data-free importance of a task: mean |delta| of each merged parameter.

    >>> import torch
    >>> from deltakit.delta_source import ModelDelta
    >>> base = MemoryTensors({"w": torch.tensor([1.0, 2.0])})
    >>> tuned = ModelDelta(MemoryTensors({"w": torch.tensor([1.0, 3.0])}))
    >>> importance_of_delta(tuned, base, task="trec")["w"]
    tensor(0.5000)

    Reads delta and base once, block by block; sums are in float64. A parameter the delta does not
    change scores 0. Raises what `delta.check_base` raises, NonFinite for NaN or infinity.
    """
    import torch

    delta.check_base(base)
    raw = torch.empty(_BLOCK * 8, dtype=torch.uint8)
    scores: dict[str, Tensor] = {}
    for name in merged_names(base.infos):
        info = base.infos[name]
        total = 0.0
        for start in range(0, info.numel if delta.changes(name) else 0, _BLOCK):
            stop = min(start + _BLOCK, info.numel)
            values = base.block(name, start, stop, raw).to(working_dtype(info.dtype))
            out = torch.empty_like(values)
            delta.block_into(out, name, start, values)
            total += float(out.abs_().sum(dtype=torch.float64))
        scores[name] = torch.tensor(total / max(1, info.numel), dtype=torch.float32)  # ()
    return ImportanceMap(scores, task=task, score="delta", provenance={"method": "mean |delta|"})
