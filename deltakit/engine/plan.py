"""Plan: everything a merge will do, and about what it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from deltakit.dtypes import widened
from deltakit.engine.aside import Heads
from deltakit.engine.checks import Expert
from deltakit.engine.groups import Group
from deltakit.engine.keeping import Keeping
from deltakit.engine.scores import scores_of
from deltakit.engine.scratch import Scratch, for_kernels, may_be_at_once
from deltakit.engine.shapes import output_info, row_length
from deltakit.engine.shards import Shard
from deltakit.importance import ImportanceMap
from deltakit.recipe import Effective, Recipe
from deltakit.tensors.checkpoint import Checkpoint
from deltakit.tensors.header import TensorInfo
from deltakit.tensors.source import TensorSource
from deltakit.vocabulary import Matched

if TYPE_CHECKING:
    from torch import Tensor

# Bytes read and written a second and thread, order of magnitude (benchmarks/merge_speed.py).
_RATES = {"nothing": 0.8e9, "tensor": 0.3e9, "model": 0.25e9}
_SVD_WORK, _SVD_RATE = 25, 2e10  # operations of a thin SVD for each m n min(m, n), and a second


@dataclass(frozen=True)
class Plan:
    """A merge that will not be refused half-way: what is read, computed and written."""

    recipe: Recipe
    model: Checkpoint  # the base as it lies on disk, with its config and tokenizer
    base: TensorSource  # its tensors as they are merged: stacked, in the output's vocabulary
    experts: Sequence[Expert]  # the last tasks of the recipe; earlier ones are in `keeping.before`
    effective: Mapping[str, Effective] = field(repr=False)  # of each merged parameter
    groups: Sequence[Group]
    heads: Mapping[str, Heads]  # of each task that keeps tensors aside
    shards: Sequence[Shard]
    merged: Sequence[str]  # parameters that some expert changes, sorted
    facts: Mapping[str, Any] = field(repr=False)  # what Strategy.prepare found, by parameter
    maps: Sequence[ImportanceMap]  # one a task, where the strategy needs them
    depths: Mapping[str, float] = field(repr=False)  # of each merged parameter, 0 to 1
    notes: Sequence[str]
    scratch: Scratch
    vocabulary: Matched | None = None  # of models whose tokenizers differ
    # Beside the weights: files that are not as the base's, None for one that is left out.
    files: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    keeping: Keeping | None = None  # of its running state, for a task to be added later

    @property
    def bytes_out(self) -> int:
        """Bytes of tensors written."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def state_bytes(self) -> int:
        """Bytes of the running state that is kept beside."""
        return self.keeping.nbytes if self.keeping else 0

    @property
    def bytes_in(self) -> int:
        """Bytes read once through: the base, and each expert where it changes something.

        A strategy that looks at whole tensors first reads more than once.
        """
        base = sum(info.nbytes for info in self.base.infos.values())
        changed = sum(
            self.base.infos[name].nbytes
            for expert in self.experts
            for name in self.merged
            if expert.source.changes(name)
        )
        return base + changed + (self.keeping.bytes_before if self.keeping else 0)

    @property
    def for_kernels(self) -> bool:
        """Whether the kernels do all, so that torch need not be loaded, which takes seconds."""
        infos = {name: self.base.infos[name] for name in self.effective}
        return self.keeping is None and for_kernels(
            self.recipe, infos, self.groups, self.experts, self.facts.values()
        )

    @property
    def seconds(self) -> float:
        """Rough time estimate in seconds."""
        shares = [(self._bytes(group.names), group.methods[0]) for group in self.groups]
        rest = self.bytes_in + self.bytes_out - sum(nbytes for nbytes, _ in shares)
        took = rest / _RATES["nothing"]
        took += sum(nbytes / _RATES[method.looks] for nbytes, method in shares)
        for group in self.groups:
            if group.methods[0].strategy.family == "matrix":
                shapes = [self.base.infos[name].shape for name in group.names]
                factored = sum(m * n * min(m, n) for m, n in (s for s in shapes if len(s) == 2))
                took += factored * len(self.experts) * _SVD_WORK / _SVD_RATE / _RATES["nothing"]
        return took / self.scratch.threads

    def _bytes(self, names: Sequence[str]) -> int:
        """Return the bytes of some parameters in base, experts and output, about."""
        return (len(self.experts) + 2) * sum(self.base.infos[name].nbytes for name in names)

    def of(self, name: str) -> Effective:
        """Return how a parameter is merged: its method, weights and scale."""
        return self.effective[name]

    @property
    def looks(self) -> Literal["nothing", "tensor", "model"]:
        """What is read before the first block can be merged, of whatever parameter reads most."""
        every = {method.looks for group in self.groups for method in group.methods}
        return next((looks for looks in ("model", "tensor") if looks in every), "nothing")

    def at_once(self, name: str) -> bool:
        """Tell whether a parameter is merged in one piece, its cuts found in the same pass."""
        info = self.base.infos[name]
        return (
            name in self.effective
            and info.numel <= self.scratch.at_once
            and may_be_at_once(name, info, self.effective, self.experts)
        )

    def step(self, name: str) -> int:
        """Return how many entries of a tensor are worked on at a time: as its strategy allows."""
        if name not in self.effective:
            return self.scratch.block
        unit, info = self.of(name).method.unit, self.base.infos[name]
        if unit == "element":
            return self.scratch.block
        if unit == "tensor":
            return max(1, info.numel)
        row = row_length(info)
        return max(1, row, self.scratch.block // max(1, row) * row)

    def scores(self, name: str) -> tuple[Tensor, ...]:
        """Return each task's importance of a parameter; 1 for all where no map scores it."""
        return scores_of(self.maps, name)

    def output_info(self, name: str) -> TensorInfo:
        return output_info(self.base.infos[name], self.recipe.dtype)

    def working_dtype(self, name: str) -> str:
        """Return the dtype that a parameter's deltas are taken and summed in, F32 or F64."""
        return widened(self.recipe.accumulate or self.base.infos[name].dtype)
